// ReLU, batch norm and 2x2 max-pooling of one block in as few passes over memory as they need.
//
// Arrays are channels-last: rows of C values, a row for each place. `a` and `b` are what batch norm does to a channel:
// y = a * relu(z) + b. Since the channel keeps its order (or turns it round, where a < 0), the largest y of a window is
// found from z alone, and nothing of full size is ever stored but z and its gradient. NaN stays NaN.
//
// Sums are taken in float over one row of windows and then in double, for each thread apart and in a fixed order: with
// the same number of threads the result is the same to the last bit.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <omp.h>

namespace {

struct BFloat16 {
    uint16_t bits;
};

inline float load(float value) { return value; }

inline float load(BFloat16 value) {
    uint32_t bits = uint32_t(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

inline void store(float &place, float value) { place = value; }

// To the nearest, ties to even. A NaN stays one: those that arithmetic makes have no low bits to carry over.
inline void store(BFloat16 &place, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    place.bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline float relu(float x) { return x < 0 ? 0 : x; }

// One row of windows: two rows of places above each other, and the pooled row below them.
struct Rows {
    int64_t count;  // of window rows, over all images
    int64_t width;  // windows in a row
    int64_t channels;
    int64_t top(int64_t row) const { return row * 4 * width * channels; }
    int64_t below() const { return 2 * width * channels; }
    int64_t pooled(int64_t row) const { return row * width * channels; }
};

// Adds up `num` sums of `channels` values over all rows; `add(row, sums)` adds one row in float.
template <typename Add>
void reduce(int64_t rows, int64_t num_sums, int threads, double *sums, Add add) {
    std::vector<double> parts(threads * num_sums);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> row_sums(num_sums);
        std::vector<double> part(num_sums);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            std::memset(row_sums.data(), 0, num_sums * sizeof(float));
            add(row, row_sums.data());
            for (int64_t i = 0; i < num_sums; i++) part[i] += row_sums[i];
        }
        std::memcpy(&parts[omp_get_thread_num() * num_sums], part.data(), num_sums * sizeof(double));
    }
    for (int64_t i = 0; i < num_sums; i++) {
        sums[i] = 0;
        for (int thread = 0; thread < threads; thread++) sums[i] += parts[thread * num_sums + i];
    }
}

// sums[0..C): of relu(z); sums[C..2C): of its squares.
template <typename T>
void moments(const T *z, Rows rows, double *sums, int threads) {
    int64_t channels = rows.channels;
    reduce(rows.count, 2 * channels, threads, sums, [=](int64_t row, float *__restrict sum) {
        const T *__restrict places = z + rows.top(row);
        float *__restrict squares = sum + channels;
        for (int64_t place = 0; place < 4 * rows.width; place++, places += channels) {
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) {
                float x = relu(load(places[c]));
                sum[c] += x;
                squares[c] += x * x;
            }
        }
    });
}

// `best`, where it is wanted: the relu(z) that each window's y came from.
template <typename T>
void forward(const T *z, const float *__restrict a, const float *__restrict b, T *y, T *best, Rows rows, int threads) {
    int64_t channels = rows.channels;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows.count; row++) {
        const T *__restrict top = z + rows.top(row);
        const T *__restrict below = top + rows.below();
        T *__restrict pooled = y + rows.pooled(row);
        T *__restrict kept = best ? best + rows.pooled(row) : nullptr;
        for (int64_t i = 0; i < rows.width; i++, top += 2 * channels, below += 2 * channels, pooled += channels) {
            auto window = [&](int64_t c) {
                float sign = a[c] < 0 ? -1 : 1;
                float x0 = sign * relu(load(top[c])), x1 = sign * relu(load(top[c + channels]));
                float x2 = sign * relu(load(below[c])), x3 = sign * relu(load(below[c + channels]));
                float x01 = x0 > x1 ? x0 : x1, x23 = x2 > x3 ? x2 : x3;
                return sign * (x01 > x23 ? x01 : x23);
            };
            if (!kept) {
#pragma omp simd
                for (int64_t c = 0; c < channels; c++) store(pooled[c], a[c] * window(c) + b[c]);
                continue;
            }
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) {
                float x = window(c);
                store(kept[c], x);
                store(pooled[c], a[c] * x + b[c]);
            }
            kept += channels;
        }
    }
}

// sums[0..C): of the pooled gradient; sums[C..2C): of its products with `best`.
template <typename T>
void gradient_moments(const T *best, const T *gradient, Rows rows, double *sums, int threads) {
    int64_t channels = rows.channels;
    reduce(rows.count, 2 * channels, threads, sums, [=](int64_t row, float *__restrict sum) {
        const T *__restrict kept = best + rows.pooled(row);
        const T *__restrict pooled = gradient + rows.pooled(row);
        float *__restrict products = sum + channels;
        for (int64_t i = 0; i < rows.width; i++, kept += channels, pooled += channels) {
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) {
                float g = load(pooled[c]);
                sum[c] += g;
                products[c] += g * load(kept[c]);
            }
        }
    });
}

// dz where z > 0: a * (the window's gradient at its first largest y) - k0 - k1 * z; else 0.
template <typename T>
void backward(const T *z, const T *gradient, const float *__restrict a, const float *__restrict k0,
              const float *__restrict k1, T *dz, Rows rows, int threads) {
    int64_t channels = rows.channels;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows.count; row++) {
        const T *__restrict top = z + rows.top(row);
        const T *__restrict below = top + rows.below();
        const T *__restrict pooled = gradient + rows.pooled(row);
        T *__restrict dtop = dz + rows.top(row);
        T *__restrict dbelow = dtop + rows.below();
        for (int64_t i = 0; i < rows.width; i++) {
#pragma omp simd
            for (int64_t c = 0; c < channels; c++) {
                float z0 = load(top[c]), z1 = load(top[c + channels]);
                float z2 = load(below[c]), z3 = load(below[c + channels]);
                float x0 = relu(z0), x1 = relu(z1), x2 = relu(z2), x3 = relu(z3);
                float sign = a[c] < 0 ? -1 : 1, g = a[c] * load(pooled[c]);
                float s0 = sign * x0, s1 = sign * x1, s2 = sign * x2, s3 = sign * x3;
                float best01 = s1 > s0 ? s1 : s0, best012 = s2 > best01 ? s2 : best01;
                float g3 = s3 > best012 ? g : 0, left = g - g3;
                float g2 = s2 > best01 ? left : 0;
                left -= g2;
                float g1 = s1 > s0 ? left : 0, g0 = left - g1;
                store(dtop[c], z0 > 0 ? g0 - k0[c] - k1[c] * x0 : x0 * 0);
                store(dtop[c + channels], z1 > 0 ? g1 - k0[c] - k1[c] * x1 : x1 * 0);
                store(dbelow[c], z2 > 0 ? g2 - k0[c] - k1[c] * x2 : x2 * 0);
                store(dbelow[c + channels], z3 > 0 ? g3 - k0[c] - k1[c] * x3 : x3 * 0);
            }
            top += 2 * channels, below += 2 * channels, pooled += channels;
            dtop += 2 * channels, dbelow += 2 * channels;
        }
    }
}

// What backward needs of a channel beside z.
struct Channel {
    float *a, *mean, *scale;  // y = a * relu(z) + b with a = gamma * scale; scale is 1 / standard deviation
};

template <typename T>
void normalize(const T *z, const float *gamma, const float *beta, const double *mean, const double *variance, double eps,
               T *y, T *best, Channel saved, Rows rows, int threads) {
    std::vector<float> b(rows.channels);
    for (int64_t c = 0; c < rows.channels; c++) {
        double scale = 1 / std::sqrt(variance[c] + eps);
        saved.a[c] = gamma[c] * scale;
        saved.mean[c] = mean[c];
        saved.scale[c] = scale;
        b[c] = beta[c] - mean[c] * gamma[c] * scale;
    }
    forward(z, saved.a, b.data(), y, best, rows, threads);
}

template <typename T>
void train_forward(const T *z, const float *gamma, const float *beta, float *running_mean, float *running_var,
                   double momentum, double eps, T *y, T *best, Channel saved, Rows rows, int threads) {
    int64_t channels = rows.channels;
    double count = 4.0 * rows.count * rows.width;
    std::vector<double> sums(2 * channels);
    moments(z, rows, sums.data(), threads);
    double *mean = sums.data(), *variance = mean + channels;
    for (int64_t c = 0; c < channels; c++) {
        mean[c] /= count;
        variance[c] = variance[c] / count - mean[c] * mean[c];
        if (variance[c] < 0) variance[c] = 0;
        running_mean[c] += momentum * (mean[c] - running_mean[c]);
        running_var[c] += momentum * (variance[c] * count / (count - 1) - running_var[c]);
    }
    normalize(z, gamma, beta, mean, variance, eps, y, best, saved, rows, threads);
}

template <typename T>
void eval_forward(const T *z, const float *gamma, const float *beta, const float *running_mean,
                  const float *running_var, double eps, T *y, T *best, Channel saved, Rows rows, int threads) {
    std::vector<double> mean(running_mean, running_mean + rows.channels);
    std::vector<double> variance(running_var, running_var + rows.channels);
    normalize(z, gamma, beta, mean.data(), variance.data(), eps, y, best, saved, rows, threads);
}

// Where the statistics are the batch's own, z moves them too: that is what k0 and k1 take away.
template <typename T>
void all_backward(const T *z, const T *best, const T *gradient, Channel saved, bool own_statistics, T *dz,
                  float *dgamma, float *dbeta, Rows rows, int threads) {
    int64_t channels = rows.channels;
    double count = 4.0 * rows.count * rows.width;
    std::vector<double> sums(2 * channels);
    gradient_moments(best, gradient, rows, sums.data(), threads);
    std::vector<float> k0(channels), k1(channels);
    for (int64_t c = 0; c < channels; c++) {
        double sum = sums[c], products = (sums[channels + c] - saved.mean[c] * sum) * saved.scale[c];
        dbeta[c] = sum;
        dgamma[c] = products;
        if (own_statistics) {
            double slope = saved.a[c] * saved.scale[c] * products / count;
            k1[c] = slope;
            k0[c] = saved.a[c] * sum / count - slope * saved.mean[c];
        }
    }
    backward(z, gradient, saved.a, k0.data(), k1.data(), dz, rows, threads);
}

}  // namespace

#define EXPORT(NAME, T)                                                                                               \
    void train_forward_##NAME(const T *z, const float *gamma, const float *beta, float *mean, float *var,             \
                              double momentum, double eps, T *y, T *best, Channel saved, Rows rows, int threads) {    \
        train_forward(z, gamma, beta, mean, var, momentum, eps, y, best, saved, rows, threads);                       \
    }                                                                                                                 \
    void eval_forward_##NAME(const T *z, const float *gamma, const float *beta, const float *mean, const float *var,  \
                             double eps, T *y, T *best, Channel saved, Rows rows, int threads) {                      \
        eval_forward(z, gamma, beta, mean, var, eps, y, best, saved, rows, threads);                                  \
    }                                                                                                                 \
    void backward_##NAME(const T *z, const T *best, const T *gradient, Channel saved, int own_statistics, T *dz,      \
                         float *dgamma, float *dbeta, Rows rows, int threads) {                                       \
        all_backward(z, best, gradient, saved, own_statistics != 0, dz, dgamma, dbeta, rows, threads);                \
    }

extern "C" {
EXPORT(float32, float)
EXPORT(bfloat16, BFloat16)
}
