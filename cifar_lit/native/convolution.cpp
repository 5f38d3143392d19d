// What a 3x3 convolution's weights and bias owe to its output: their derivative, on the tile multiplier (AMX) of
// x86-64, in bfloat16 with sums in float.
//
// Arrays are channels-last. The sum over all images and places is a matrix product, and the multiplier wants 32 of its
// terms beside each other. They are taken from 32 images at one and the same place: so shifting a window is only
// another address, and what lies beyond the edge is a border of zeros. The input is turned for that once (images
// innermost), the output's gradient row by row, by pairs of images, just before it is used.
//
// Each thread sums up its own rows in a fixed order: with the same number of threads the result is the same to the last
// bit.

#include <cstdint>

#if defined(__AMX_BF16__) && defined(__AVX512BW__) && defined(__linux__)

#include <cstring>
#include <memory>
#include <new>

#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

using BFloat16 = uint16_t;

constexpr int64_t GROUP = 32;           // images, and values in a vector
constexpr int64_t SIDE = 16;            // of a tile of sums
constexpr int64_t TILE = SIDE * GROUP;  // values in a tile of factors
constexpr int64_t SUMS = SIDE * SIDE;   // values in a tile of sums
constexpr int64_t ALIGNMENT = 64;       // bytes

struct Shape {
    int64_t batch, height, width, in, out;
};

struct Release {
    void operator()(char *memory) const { ::operator delete[](memory, std::align_val_t(ALIGNMENT)); }
};

// Eight tiles of 16 rows of 64 bytes.
struct TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Which values of two vectors (0..31 and 32..63), taken by turns, make up the low and the high half.
struct Zip {
    __m512i low, high;

    Zip() {
        alignas(ALIGNMENT) BFloat16 places[2][GROUP];
        for (int i = 0; i < GROUP; i++) {
            places[0][i] = i / 2 + i % 2 * GROUP;
            places[1][i] = GROUP / 2 + places[0][i];
        }
        low = _mm512_load_si512(places[0]);
        high = _mm512_load_si512(places[1]);
    }
};

// 32 values of each of up to 32 images become 32 rows of 32 images; those that are missing are zeros.
inline void turn(const BFloat16 *from, int64_t stride, int64_t images, BFloat16 *to, const Zip &zip) {
    __m512i rows[GROUP], next[GROUP];
    for (int i = 0; i < GROUP; i++) rows[i] = i < images ? _mm512_loadu_si512(from + i * stride) : _mm512_setzero_si512();
    for (int round = 0; round < 5; round++) {  // after log2(32) rounds each value is where it belongs
        for (int i = 0; i < GROUP / 2; i++) {
            next[2 * i] = _mm512_permutex2var_epi16(rows[i], zip.low, rows[i + GROUP / 2]);
            next[2 * i + 1] = _mm512_permutex2var_epi16(rows[i], zip.high, rows[i + GROUP / 2]);
        }
        for (int i = 0; i < GROUP; i++) rows[i] = next[i];
    }
    for (int i = 0; i < GROUP; i++) _mm512_store_si512(to + i * GROUP, rows[i]);
}

// Adds the 32 values of two images to `sums`: those at even places first, then those at odd ones.
inline void add(__m512i first, __m512i second, float *sums) {
    auto low = [](__m512i pair) { return _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)); };
    auto high = [](__m512i pair) { return _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(0xffff0000))); };
    __m512 even = _mm512_add_ps(low(first), low(second)), odd = _mm512_add_ps(high(first), high(second));
    _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), even));
    _mm512_storeu_ps(sums + 16, _mm512_add_ps(_mm512_loadu_ps(sums + 16), odd));
}

class WeightGradient {
   public:
    WeightGradient(const BFloat16 *x, const BFloat16 *dz, Shape shape, int threads)
        : x(x),
          dz(dz),
          shape(shape),
          threads(threads),
          groups((shape.batch + GROUP - 1) / GROUP),
          // Tiles reach beyond a row's last window by up to one tile, which is zeros and whose sums nobody reads.
          line((shape.width + 2) * shape.in * GROUP + TILE),
          row_tiles((3 * shape.in + SIDE - 1) / SIDE),
          out_tiles(shape.out / SIDE),
          turned_size((shape.height + 2) * groups * line),
          packed_size(shape.width * groups * out_tiles * TILE),
          sums_size(3 * row_tiles * out_tiles * SUMS),
          memory(new (std::align_val_t(ALIGNMENT)) char[bytes()]) {}

    // dw: (out, 3, 3, in). db: (out).
    void run(float *dw, float *db) {
        BFloat16 *turned = reinterpret_cast<BFloat16 *>(memory.get()), *all_packed = turned + turned_size;
        float *all_sums = reinterpret_cast<float *>(all_packed + threads * packed_size);
        double *all_totals = reinterpret_cast<double *>(all_sums + threads * sums_size);
#pragma omp parallel num_threads(threads)
        {
            BFloat16 *packed = all_packed + omp_get_thread_num() * packed_size;
            float *sums = all_sums + omp_get_thread_num() * sums_size;
            double *totals = all_totals + omp_get_thread_num() * shape.out;
            // For all that were asked for: there may be fewer.
#pragma omp for schedule(static) nowait
            for (int thread = 0; thread < threads; thread++) {
                std::memset(all_sums + thread * sums_size, 0, sums_size * sizeof(float));
                std::memset(all_totals + thread * shape.out, 0, shape.out * sizeof(double));
            }
#pragma omp for schedule(static)
            for (int64_t i = 0; i < (shape.height + 2) * groups; i++)
                turn_line(i / groups - 1, i % groups * GROUP, turned + i * line);
            TileConfig config;
            _tile_loadconfig(&config);
#pragma omp for schedule(static)
            for (int64_t h = 0; h < shape.height; h++) {
                pack(h, packed, totals);
                multiply(turned + h * groups * line, packed, sums);
            }
            _tile_release();
#pragma omp for schedule(static)
            for (int64_t tile = 0; tile < 3 * row_tiles; tile++) gather(all_sums, tile, dw);
        }
        for (int64_t c = 0; c < shape.out; c++) {
            double total = 0;
            for (int thread = 0; thread < threads; thread++) total += all_totals[thread * shape.out + c];
            db[c] = total;
        }
    }

   private:
    const BFloat16 *x, *dz;
    Shape shape;
    int threads;
    int64_t groups, line, row_tiles, out_tiles, turned_size, packed_size, sums_size;
    std::unique_ptr<char[], Release> memory;
    Zip zip;

    size_t bytes() const {
        size_t of_thread = packed_size * sizeof(BFloat16) + sums_size * sizeof(float) + shape.out * sizeof(double);
        return turned_size * sizeof(BFloat16) + threads * of_thread;
    }

    // One row of the input of 32 images, from the place before its first to the one after its last.
    void turn_line(int64_t h, int64_t first_image, BFloat16 *to) const {
        if (h < 0 || h == shape.height) {
            std::memset(to, 0, line * sizeof(BFloat16));
            return;
        }
        int64_t row = shape.width * shape.in, edge = shape.in * GROUP;
        std::memset(to, 0, edge * sizeof(BFloat16));
        std::memset(to + (shape.width + 1) * edge, 0, (edge + TILE) * sizeof(BFloat16));
        const BFloat16 *from = x + (first_image * shape.height + h) * row;
        for (int64_t i = 0; i < row; i += GROUP)
            turn(from + i, shape.height * row, shape.batch - first_image, to + edge + i * GROUP, zip);
    }

    // A row of the output's gradient as tiles: by place, group of images and 16 channels. Adds it up on the way.
    void pack(int64_t h, BFloat16 *packed, double *totals) const {
        int64_t row = shape.width * shape.out, image = shape.height * row;
        for (int64_t c = 0; c < shape.out; c += GROUP) {
            float sums[GROUP] = {};
            for (int64_t n = 0; n < groups * GROUP; n += 2) {
                const BFloat16 *from = dz + n * image + h * row + c;
                BFloat16 *to = packed + (n / GROUP * out_tiles + c / SIDE) * TILE + n % GROUP / 2 * GROUP;
                for (int64_t w = 0; w < shape.width; w++, from += shape.out, to += groups * out_tiles * TILE) {
                    __m512i first = n < shape.batch ? _mm512_loadu_si512(from) : _mm512_setzero_si512();
                    __m512i second = n + 1 < shape.batch ? _mm512_loadu_si512(from + image) : _mm512_setzero_si512();
                    _mm512_store_si512(to, _mm512_permutex2var_epi16(first, zip.low, second));
                    _mm512_store_si512(to + TILE, _mm512_permutex2var_epi16(first, zip.high, second));
                    add(first, second, sums);
                }
            }
            for (int64_t i = 0; i < SIDE; i++) {
                totals[c + 2 * i] += sums[i];
                totals[c + 2 * i + 1] += sums[SIDE + i];
            }
        }
    }

    // Adds the products of one row of the output with the three rows of the input that its windows cover. A tile of the
    // input has 16 of the 3 * in values that lie beside each other in a row of windows.
    void multiply(const BFloat16 *lines, const BFloat16 *packed, float *sums) const {
        int64_t tiles = 3 * row_tiles;
        auto place = [&](int64_t tile) { return lines + tile / row_tiles * groups * line + tile % row_tiles * TILE; };
        for (int64_t out = 0; out < out_tiles; out += 2)
            for (int64_t tile = 0; tile < tiles; tile += 2) {
                const BFloat16 *b = packed + out * TILE;
                float *sum = sums + (tile * out_tiles + out) * SUMS;
                if (tile + 1 < tiles)
                    multiply_two(place(tile), place(tile + 1), b, sum);
                else
                    multiply_one(place(tile), b, sum);
            }
    }

    void multiply_two(const BFloat16 *a0, const BFloat16 *a1, const BFloat16 *b, float *sum) const {
        float *below = sum + out_tiles * SUMS;
        _tile_loadd(0, sum, 64);
        _tile_loadd(1, sum + SUMS, 64);
        _tile_loadd(2, below, 64);
        _tile_loadd(3, below + SUMS, 64);
        for (int64_t w = 0; w < shape.width; w++)
            for (int64_t group = 0; group < groups; group++, b += out_tiles * TILE) {
                int64_t at = group * line + w * shape.in * GROUP;
                _tile_loadd(4, a0 + at, 64);
                _tile_loadd(6, b, 64);
                _tile_loadd(7, b + TILE, 64);
                _tile_loadd(5, a1 + at, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        _tile_stored(0, sum, 64);
        _tile_stored(1, sum + SUMS, 64);
        _tile_stored(2, below, 64);
        _tile_stored(3, below + SUMS, 64);
    }

    void multiply_one(const BFloat16 *a, const BFloat16 *b, float *sum) const {
        _tile_loadd(0, sum, 64);
        _tile_loadd(1, sum + SUMS, 64);
        for (int64_t w = 0; w < shape.width; w++)
            for (int64_t group = 0; group < groups; group++, b += out_tiles * TILE) {
                _tile_loadd(4, a + group * line + w * shape.in * GROUP, 64);
                _tile_loadd(6, b, 64);
                _tile_loadd(7, b + TILE, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
            }
        _tile_stored(0, sum, 64);
        _tile_stored(1, sum + SUMS, 64);
    }

    // Adds up what the threads have of one row of tiles, and puts it where it belongs.
    void gather(const float *all_sums, int64_t tile, float *dw) const {
        int64_t row = tile / row_tiles, first = tile % row_tiles * SIDE;
        for (int64_t i = 0; i < SIDE && first + i < 3 * shape.in; i++)
            for (int64_t out = 0; out < out_tiles; out++) {
                float total[SIDE] = {};
                for (int thread = 0; thread < threads; thread++) {
                    const float *sums = all_sums + thread * sums_size + (tile * out_tiles + out) * SUMS + i * SIDE;
                    for (int64_t j = 0; j < SIDE; j++) total[j] += sums[j];
                }
                for (int64_t j = 0; j < SIDE; j++) dw[((out * SIDE + j) * 3 + row) * 3 * shape.in + first + i] = total[j];
            }
    }
};

}  // namespace

extern "C" {
// Whether the system lets this process use the tiles; it has to be asked first.
int tiles_ready() {
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}

void weight_gradient(const BFloat16 *x, const BFloat16 *dz, float *dw, float *db, Shape shape, int threads) {
    WeightGradient(x, dz, shape, threads).run(dw, db);
}
}

#else

extern "C" int tiles_ready() { return 0; }

#endif
