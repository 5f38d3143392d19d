// Vectors of bfloat16 on AVX-512, and products of 32 rows by 32 columns on the tile multiplier (AMX) of x86-64.
#pragma once

#include <cstdint>
#include <vector>

#include <immintrin.h>

namespace {

using BFloat16 = uint16_t;

constexpr int64_t GROUP = 32;           // images, and values in a vector
constexpr int64_t SIDE = 16;            // of a tile of sums
constexpr int64_t TILE = SIDE * GROUP;  // values in a tile of factors
constexpr int64_t SUMS = SIDE * SIDE;   // values in a tile of sums
constexpr int64_t PAIR = 2 * TILE;      // factors for 32 columns: two tiles
constexpr int64_t ALIGNMENT = 64;       // bytes

// Eight tiles of 16 rows of 64 bytes.
struct TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// ---- vectors ----

// Places to take values from by turns: from two vectors, for the low and the high half; from one vector's halves.
struct Zip {
    __m512i low, high, dwords_low, dwords_high, halves;

    Zip() {
        alignas(ALIGNMENT) uint16_t words[3][32];
        alignas(ALIGNMENT) uint32_t dwords[2][16];
        for (int i = 0; i < 32; i++) {
            words[0][i] = i / 2 + i % 2 * 32;
            words[1][i] = 16 + words[0][i];
            words[2][i] = i / 2 + i % 2 * 16;
        }
        for (int i = 0; i < 16; i++) {
            dwords[0][i] = i / 2 + i % 2 * 16;
            dwords[1][i] = 8 + dwords[0][i];
        }
        low = _mm512_load_si512(words[0]);
        high = _mm512_load_si512(words[1]);
        halves = _mm512_load_si512(words[2]);
        dwords_low = _mm512_load_si512(dwords[0]);
        dwords_high = _mm512_load_si512(dwords[1]);
    }
};

// 32 values of each of 32 rows become 32 rows of 32.
inline void turn(const BFloat16 *from, int64_t stride, BFloat16 *to, const Zip &zip) {
    __m512i rows[GROUP], next[GROUP];
    for (int i = 0; i < GROUP; i++) rows[i] = _mm512_loadu_si512(from + i * stride);
    for (int round = 0; round < 5; round++) {  // after log2(32) rounds each value is where it belongs
        for (int i = 0; i < GROUP / 2; i++) {
            next[2 * i] = _mm512_permutex2var_epi16(rows[i], zip.low, rows[i + GROUP / 2]);
            next[2 * i + 1] = _mm512_permutex2var_epi16(rows[i], zip.high, rows[i + GROUP / 2]);
        }
        for (int i = 0; i < GROUP; i++) rows[i] = next[i];
    }
    for (int i = 0; i < GROUP; i++) _mm512_store_si512(to + i * GROUP, rows[i]);
}

inline __m512i round_two(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// Rounds up to 16 floats.
inline void round_some(const float *from, int64_t count, BFloat16 *to) {
    __mmask16 mask = _bzhi_u32(0xffff, count < 16 ? count : 16);
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from)));
}

// 32 values as floats: those at even places, and those at odd ones.
struct Floats {
    __m512 even, odd;

    Floats() : even(_mm512_setzero_ps()), odd(_mm512_setzero_ps()) {}
    Floats(__m512 even, __m512 odd) : even(even), odd(odd) {}
    explicit Floats(__m512i values)
        : even(_mm512_castsi512_ps(_mm512_slli_epi32(values, 16))),
          odd(_mm512_castsi512_ps(_mm512_and_si512(values, _mm512_set1_epi32(0xffff0000)))) {}

    // 32 floats in the order of their places.
    static Floats of(const float *values) {
        const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        __m512 low = _mm512_loadu_ps(values), high = _mm512_loadu_ps(values + 16);
        return {_mm512_permutex2var_ps(low, evens, high),
                _mm512_permutex2var_ps(low, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), high)};
    }

    __m512i rounded(const Zip &zip) const { return _mm512_permutexvar_epi16(zip.halves, round_two(even, odd)); }

    void add(const Floats &other) {
        even = _mm512_add_ps(even, other.even);
        odd = _mm512_add_ps(odd, other.odd);
    }

    void add_product(const Floats &x, const Floats &y) {
        even = _mm512_fmadd_ps(x.even, y.even, even);
        odd = _mm512_fmadd_ps(x.odd, y.odd, odd);
    }

    // Adds them to `totals`, in the order of their places.
    void add_to(double *totals) const {
        alignas(ALIGNMENT) float evens[16], odds[16];
        _mm512_store_ps(evens, even);
        _mm512_store_ps(odds, odd);
        for (int i = 0; i < 16; i++) {
            totals[2 * i] += evens[i];
            totals[2 * i + 1] += odds[i];
        }
    }
};

// Zero is +0 afterwards, so that what is left compares like whole numbers; NaN stays NaN.
inline __m512 relu(__m512 x) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NLE_UQ), x); }

inline __m512i load(const BFloat16 *from) { return _mm512_loadu_si512(from); }
inline void store(BFloat16 *to, __m512i values) { _mm512_storeu_si512(to, values); }

// ---- products ----

// Sums for 32 rows and 32 columns, into four tiles: the rows' halves by the columns' halves. `offsets` say where the 32
// factors of each term lie from the first row on, `stride` where those of the next row; `columns` has a pair of tiles
// for each term.
inline void multiply(const BFloat16 *rows, int64_t stride, const std::vector<int64_t> &offsets,
                     const BFloat16 *columns) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const BFloat16 *second = rows + SIDE * stride;
    for (int64_t offset : offsets) {
        _tile_loadd(4, rows + offset, stride * sizeof(BFloat16));
        _tile_loadd(6, columns, 64);
        _tile_loadd(7, columns + TILE, 64);
        _tile_loadd(5, second + offset, stride * sizeof(BFloat16));
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        columns += PAIR;
    }
}

// Hands on the rows of what `multiply` has summed up: take(row, its first 16 columns, the other 16).
template <typename Take>
inline void each_row(int64_t rows, Take take) {
    alignas(ALIGNMENT) float sums[4 * SUMS];
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + SUMS, 64);
    _tile_stored(2, sums + 2 * SUMS, 64);
    _tile_stored(3, sums + 3 * SUMS, 64);
    for (int64_t i = 0; i < rows; i++) {
        const float *row = sums + i / SIDE * 2 * SUMS + i % SIDE * SIDE;
        take(i, _mm512_load_ps(row), _mm512_load_ps(row + SUMS));
    }
}

// Weights as the multiplier wants them. They are (out, terms): a row of `terms` for each output.
struct Weights {
    const float *values;
    int64_t out, terms;

    // 32 outputs as columns, for the `count` <= 32 terms from `first` on; what is lacking is zeros.
    void pack_outputs(int64_t out_first, int64_t first, int64_t count, BFloat16 *to, const Zip &zip) const {
        __mmask16 low = _bzhi_u32(0xffff, count), high = count > 16 ? _bzhi_u32(0xffff, count - 16) : 0;
        for (int64_t tile = 0; tile < 2; tile++, out_first += SIDE, to += TILE) {
            __m512i rows[SIDE], next[SIDE];
            for (int64_t i = 0; i < SIDE; i++) {
                const float *row = values + (out_first + i) * terms + first;
                bool exists = out_first + i < out;
                rows[i] = round_two(_mm512_maskz_loadu_ps(exists ? low : 0, row),
                                    _mm512_maskz_loadu_ps(exists ? high : 0, row + 16));
            }
            for (int round = 0; round < 4; round++) {  // pairs of terms change places with outputs
                for (int i = 0; i < SIDE / 2; i++) {
                    next[2 * i] = _mm512_permutex2var_epi32(rows[i], zip.dwords_low, rows[i + SIDE / 2]);
                    next[2 * i + 1] = _mm512_permutex2var_epi32(rows[i], zip.dwords_high, rows[i + SIDE / 2]);
                }
                for (int i = 0; i < SIDE; i++) rows[i] = next[i];
            }
            for (int64_t i = 0; i < SIDE; i++) _mm512_store_si512(to + i * GROUP, rows[i]);
        }
    }

    // 32 terms from `first` on as columns, for 32 outputs; those that are lacking are zeros.
    void pack_terms(int64_t first, int64_t out_first, BFloat16 *to, const Zip &zip) const {
        for (int64_t tile = 0; tile < 2; tile++, first += SIDE, to += TILE)
            for (int64_t i = 0; i < SIDE; i++) {
                auto row = [&](int64_t place) {
                    return _mm512_maskz_loadu_ps(place < out ? 0xffff : 0, values + place * terms + first);
                };
                int64_t place = out_first + 2 * i;
                _mm512_store_si512(to + i * GROUP,
                                   _mm512_permutexvar_epi16(zip.halves, round_two(row(place), row(place + 1))));
            }
    }
};

}  // namespace
