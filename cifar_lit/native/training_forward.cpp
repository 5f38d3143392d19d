// From normalised images to logits, in training; training_step.h says how.

#include <cstdint>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__linux__)

#include <cmath>

#include <sys/syscall.h>
#include <unistd.h>

#include "training_step.h"

namespace {

// Which of 16 values stay: each place is hashed with the seed, twice through a 32-bit mixer.
struct Lots {
    bool all;
    __m512i first, second, least;

    Lots(double dropout, uint64_t seed)
        : all(dropout == 0),
          first(_mm512_set1_epi32(seed)),
          second(_mm512_set1_epi32(seed >> 32)),
          least(_mm512_set1_epi32(uint32_t(std::min(dropout * 4294967296.0, 4294967295.0)))) {}

    __mmask16 draw(int64_t place) const {
        if (all) return 0xffff;
        const __m512i ramp = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        __m512i lot = _mm512_add_epi32(_mm512_set1_epi32(place), ramp);
        lot = mixed(_mm512_xor_si512(mixed(_mm512_add_epi32(lot, first)), second));
        return _mm512_cmpge_epu32_mask(lot, least);
    }

    // The "lowbias32" mixer of C. Wellons's hash prospector: every bit of the result depends on every bit.
    static __m512i mixed(__m512i x) {
        x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
        x = _mm512_mullo_epi32(x, _mm512_set1_epi32(0x7feb352d));
        x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 15));
        x = _mm512_mullo_epi32(x, _mm512_set1_epi32(0x846ca68b));
        return _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
    }
};

class Forward : Step {
 public:
    using Step::Step;

    void run(const float *pixels, const Parameters *parameters, const Parameters *norms, float *const *running,
             const double *settings, uint64_t seed, float *logits) {
        double dropout = settings[2 * shape.blocks];
#pragma omp parallel num_threads(threads)
        {
            TileConfig config;
            _tile_loadconfig(&config);
            read(pixels);
            for (int64_t i = 0; i < shape.blocks; i++) pack_convolution(i, parameters[i].weight);
            pack_dense(parameters[shape.blocks].weight, parameters[shape.blocks + 1].weight);
#pragma omp barrier
            for (int64_t i = 0; i < shape.blocks; i++) {
                convolve(i, parameters[i].bias);
#pragma omp single
                normalize(i, norms[i], running + 2 * i, settings[2 * i], settings[2 * i + 1]);
                pool(i);
            }
            connect(parameters[shape.blocks].bias, dropout, seed);
            output(parameters[shape.blocks + 1].bias, logits);
            _tile_release();
        }
    }

 private:
    // From (image, row, column, color), float.
    void read(const float *pixels) {
        int64_t row = shape.side * COLORS, lines = shape.side + 2;
#pragma omp for schedule(static) nowait
        for (int64_t task = 0; task < groups * shape.side; task++) {
            int64_t group = task / shape.side, h = task % shape.side;
            BFloat16 *to = images + (group * lines + h + 1) * GROUP * line;
            for (int64_t n = 0; n < images_of(group); n++) {
                const float *from = pixels + ((group * GROUP + n) * shape.side + h) * row;
                for (int64_t i = 0; i < row; i += 16) round_some(from + i, row - i, to + n * line + COLORS + i);
            }
            BFloat16 *turned = blocks[0].turned + (group * lines + h + 1) * blocks[0].turned_line;
            for (int64_t i = 0; i < line; i += GROUP) turn(to + i, line, turned + i * GROUP, zip);
        }
    }

    // The terms of a window: first by rows (and, but for the first block, by columns), then by channels.
    std::vector<int64_t> input_offsets(int64_t i) const {
        std::vector<int64_t> offsets;
        if (i == 0) {
            for (int64_t row = 0; row < 3; row++) offsets.push_back(row * GROUP * line);
            return offsets;
        }
        return window_offsets(blocks[i - 1].next);
    }

    void pack_convolution(int64_t i, const float *weight) {
        const Block &block = blocks[i];
        Weights weights{weight, block.out, 9 * block.in};
        int64_t step = i ? GROUP : block.window(), chunks = weights.terms / step;
#pragma omp for schedule(static) nowait
        for (int64_t each = 0; each < block.out / GROUP * chunks; each++)
            weights.pack_outputs(each / chunks * GROUP, each % chunks * step, step, block.packed + each * PAIR, zip);
    }

    void pack_dense(const float *dense, const float *head) {
        Weights weights{dense, shape.hidden, flat}, last{head, shape.classes, shape.hidden};
        int64_t chunks = flat / GROUP, last_chunks = shape.hidden / GROUP;
#pragma omp for schedule(static) nowait
        for (int64_t each = 0; each < shape.hidden / GROUP * chunks; each++)
            weights.pack_outputs(each / chunks * GROUP, each % chunks * GROUP, GROUP, dense_packed + each * PAIR, zip);
#pragma omp for schedule(static) nowait
        for (int64_t each = 0; each < padded_classes / GROUP * last_chunks; each++)
            last.pack_outputs(each / last_chunks * GROUP, each % last_chunks * GROUP, GROUP, head_packed + each * PAIR,
                              zip);
    }

    // x, and its sums and those of its squares.
    void convolve(int64_t i, const float *bias) {
        const Block &block = blocks[i];
        std::vector<int64_t> offsets = input_offsets(i);
        int64_t side = block.features.side, stride = i ? block.in : line;
        double *own = own_totals(2 * block.out);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < groups * side; task++) {
            int64_t group = task / side, h = task % side;
            for (int64_t c = 0; c < block.out; c += GROUP) {
                __m512 low_bias = _mm512_loadu_ps(bias + c), high_bias = _mm512_loadu_ps(bias + c + 16);
                Floats sum, squares;
                for (int64_t w = 0; w < side; w++) {
                    const BFloat16 *from = i ? blocks[i - 1].y + blocks[i - 1].next.at(group, h - 1, w - 1)
                                             : images + (group * (side + 2) + h) * GROUP * line + w * COLORS;
                    multiply(from, stride, offsets, block.packed + c / GROUP * offsets.size() * PAIR);
                    BFloat16 *to = block.x + block.features.at(group, h, w) + c;
                    each_row(images_of(group), [&](int64_t n, __m512 low, __m512 high) {
                        low = relu(_mm512_add_ps(low, low_bias));
                        high = relu(_mm512_add_ps(high, high_bias));
                        __m512i rounded = round_two(low, high);
                        store(to + n * block.out, rounded);
                        Floats x(rounded);
                        sum.add(x);
                        squares.add_product(x, x);
                    });
                }
                sum.add_to(own + c);
                squares.add_to(own + block.out + c);
            }
        }
    }

    void normalize(int64_t i, const Parameters &norm, float *const *running, double momentum, double eps) {
        const Block &block = blocks[i];
        double count = double(shape.batch) * block.features.side * block.features.side;
        for (int64_t c = 0; c < block.out; c++) {
            double mean = total(c) / count, variance = total(block.out + c) / count - mean * mean;
            if (variance < 0) variance = 0;
            running[0][c] += momentum * (mean - running[0][c]);
            running[1][c] += momentum * (variance * count / (count - 1) - running[1][c]);
            double scale = 1 / std::sqrt(variance + eps);
            block.mean[c] = mean;
            block.scale[c] = scale;
            block.a[c] = norm.weight[c] * scale;
            block.b[c] = norm.bias[c] - mean * norm.weight[c] * scale;
        }
    }

    // All ones where a channel's factor is negative: values of one sign, so turned round, compare the other way.
    static __m512i order(const float *a) {
        __mmask16 low = _mm512_cmp_ps_mask(_mm512_loadu_ps(a), _mm512_setzero_ps(), _CMP_LT_OQ);
        __mmask16 high = _mm512_cmp_ps_mask(_mm512_loadu_ps(a + 16), _mm512_setzero_ps(), _CMP_LT_OQ);
        return _mm512_maskz_set1_epi16(_mm512_kunpackw(high, low), -1);
    }

    // What each window keeps, y, and y turned for the next block's derivative.
    void pool(int64_t i) {
        const Block &block = blocks[i];
        int64_t side = block.pooled.side, right = block.features.place(), below = block.features.row();
#pragma omp for schedule(static)
        for (int64_t task = 0; task < groups * side; task++) {
            int64_t group = task / side, h = task % side, count = images_of(group) * block.out;
            for (int64_t w = 0; w < side; w++)
                for (int64_t c = 0; c < block.out; c += GROUP) {
                    Floats a = Floats::of(block.a + c), b = Floats::of(block.b + c);
                    __m512i flip = order(block.a + c);
                    const BFloat16 *x = block.x + block.features.at(group, 2 * h, 2 * w) + c;
                    BFloat16 *best = block.best + block.pooled.at(group, h, w) + c;
                    BFloat16 *y = block.y + block.next.at(group, h, w) + c;
                    for (int64_t n = 0; n < count; n += block.out) {
                        auto value = [&](int64_t at) { return _mm512_xor_si512(load(x + n + at), flip); };
                        __m512i largest = _mm512_max_epu16(_mm512_max_epu16(value(0), value(right)),
                                                           _mm512_max_epu16(value(below), value(below + right)));
                        largest = _mm512_xor_si512(largest, flip);
                        store(best + n, largest);
                        Floats result = b;
                        result.add_product(a, Floats(largest));
                        store(y + n, result.rounded(zip));
                    }
                }
            if (i + 1 < shape.blocks) {
                BFloat16 *to = blocks[i + 1].turned + (group * (side + 2) + h + 1) * blocks[i + 1].turned_line;
                for (int64_t w = 0; w < side; w++)
                    for (int64_t c = 0; c < block.out; c += GROUP)
                        turn(block.y + block.next.at(group, h, w) + c, block.out,
                             to + ((w + 1) * block.out + c) * GROUP, zip);
            }
        }
    }

    // The terms of the first dense layer: by places, then by channels.
    std::vector<int64_t> flat_offsets() const {
        std::vector<int64_t> offsets;
        const Grid &grid = blocks.back().next;
        for (int64_t term = 0; term < flat; term += GROUP)
            offsets.push_back(term / grid.channels * grid.place() + term % grid.channels);
        return offsets;
    }

    void connect(const float *bias, double dropout, uint64_t seed) {
        const Block &last = blocks.back();
        std::vector<int64_t> offsets = flat_offsets();
        int64_t columns = shape.hidden / GROUP;
        __m512 scale = scale_of_kept(dropout);
        Lots lots(dropout, seed);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < groups * columns; task++) {
            int64_t group = task / columns, c = task % columns * GROUP;
            multiply(last.y + last.next.at(group, 0, 0), last.out, offsets, dense_packed + c * flat);
            __m512 low_bias = _mm512_loadu_ps(bias + c), high_bias = _mm512_loadu_ps(bias + c + 16);
            each_row(images_of(group), [&](int64_t n, __m512 low, __m512 high) {
                int64_t place = (group * GROUP + n) * shape.hidden + c;
                low = relu(_mm512_add_ps(low, low_bias));
                high = relu(_mm512_add_ps(high, high_bias));
                low = _mm512_maskz_mul_ps(lots.draw(place), low, scale);
                high = _mm512_maskz_mul_ps(lots.draw(place + 16), high, scale);
                store(hidden + place, round_two(low, high));
            });
        }
    }

    void output(const float *bias, float *logits) {
        std::vector<int64_t> offsets = row_offsets(shape.hidden);
        int64_t columns = padded_classes / GROUP;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < groups * columns; task++) {
            int64_t group = task / columns, c = task % columns * GROUP, left = shape.classes - c;
            __mmask16 low_mask = _bzhi_u32(0xffff, std::min<int64_t>(left, 16));
            __mmask16 high_mask = left > 16 ? _bzhi_u32(0xffff, std::min<int64_t>(left - 16, 16)) : 0;
            multiply(hidden + group * GROUP * shape.hidden, shape.hidden, offsets, head_packed + c * shape.hidden);
            __m512 low_bias = _mm512_maskz_loadu_ps(low_mask, bias + c);
            __m512 high_bias = _mm512_maskz_loadu_ps(high_mask, bias + c + 16);
            each_row(images_of(group), [&](int64_t n, __m512 low, __m512 high) {
                float *to = logits + (group * GROUP + n) * shape.classes + c;
                _mm512_mask_storeu_ps(to, low_mask, _mm512_add_ps(low, low_bias));
                _mm512_mask_storeu_ps(to + 16, high_mask, _mm512_add_ps(high, high_bias));
            });
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

// Of a workspace: zeros before its first use, at a multiple of 64.
int64_t training_bytes(const Shape *shape, int threads) { return Step(*shape, threads, nullptr).bytes; }

// parameters: (weight, bias) of each block's convolution, of the dense layer and of the head. norms: of each block.
// running: mean and variance of each block. settings: momentum and epsilon of each block, then dropout.
void training_forward(const Shape *shape, int threads, char *workspace, const float *pixels,
                      const Parameters *parameters, const Parameters *norms, float *const *running,
                      const double *settings, uint64_t seed, float *logits) {
    Forward(*shape, threads, workspace).run(pixels, parameters, norms, running, settings, seed, logits);
}
}

#else

extern "C" int tiles_ready() { return 0; }

#endif
