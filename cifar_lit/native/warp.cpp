// Rotated, scaled, mirrored and shifted copies of small images, interpolated bilinearly. Beyond its edge an image
// goes on as its own mirror image.

#include <cmath>
#include <cstdint>

#include <omp.h>

namespace {

constexpr int SIDE = 32, CHANNELS = 3, PLACES = SIDE * SIDE;

// Where a target place takes its colour from: x = m[0] * column + m[1] * row + m[2], y = m[3] * column + ...; all of
// them from the middle of the first to the middle of the last pixel, on the scale of -1..1 from edge to edge.
struct Affine {
    float m[6];
};

// From -1..1 to pixels, folded back at the edges as often as it takes.
inline float folded(float place) {
    float turns = (place + 1) / 4;
    float inside = (turns - std::floor(turns)) * 2 * SIDE;
    float pixel = (inside < SIDE ? inside : 2 * SIDE - inside) - 0.5f;
    // What is no number becomes 0: it must not lead out of the image.
    return pixel > 0 ? (pixel < SIDE - 1 ? pixel : SIDE - 1) : 0;
}

inline float channel(uint32_t pixel, int shift) { return int32_t(pixel >> shift & 255); }

void warp_one(const uint8_t *image, Affine affine, float *out) {
    uint32_t pixels[PLACES];
    for (int i = 0; i < PLACES; i++)
        pixels[i] = image[CHANNELS * i] | image[CHANNELS * i + 1] << 8 | image[CHANNELS * i + 2] << 16;
    const float *m = affine.m;
    for (int row = 0; row < SIDE; row++, out += CHANNELS * SIDE) {
        float colours[CHANNELS][SIDE], v = (2 * row + 1 - SIDE) / float(SIDE);
        float x_of_row = m[1] * v + m[2], y_of_row = m[4] * v + m[5];
#pragma omp simd
        for (int column = 0; column < SIDE; column++) {
            float u = (2 * column + 1 - SIDE) / float(SIDE);
            float x = folded(m[0] * u + x_of_row), y = folded(m[3] * u + y_of_row);
            float left = std::floor(x), top = std::floor(y), right_share = x - left, low_share = y - top;
            int at = int(top) * SIDE + int(left);
            int right = x < SIDE - 1 ? 1 : 0, below = y < SIDE - 1 ? SIDE : 0;
            uint32_t corners[4] = {pixels[at], pixels[at + right], pixels[at + below], pixels[at + below + right]};
            for (int c = 0; c < CHANNELS; c++) {
                float a = channel(corners[0], 8 * c), b = channel(corners[1], 8 * c);
                float d = channel(corners[2], 8 * c), e = channel(corners[3], 8 * c);
                float upper = a + right_share * (b - a), lower = d + right_share * (e - d);
                colours[c][column] = upper + low_share * (lower - upper);
            }
        }
        for (int column = 0; column < SIDE; column++)
            for (int c = 0; c < CHANNELS; c++) out[CHANNELS * column + c] = colours[c][column];
    }
}

}  // namespace

// `images`: (N, 32, 32, 3). `indices`: which of them, (count). `affines`: (count). `out`: (count, 32, 32, 3).
extern "C" void warp(const uint8_t *images, const int64_t *indices, const Affine *affines, float *out, int64_t count,
                     int threads) {
    constexpr int64_t SIZE = CHANNELS * PLACES;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; i++) warp_one(images + indices[i] * SIZE, affines[i], out + i * SIZE);
}
