// From the logits' derivative back to those of all weights; training_step.h says how.

#include <cstdint>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__linux__)

#include "training_step.h"

namespace {

class Backward : Step {
 public:
    using Step::Step;

    void run(const Parameters *parameters, double dropout, const float *given, const Gradients *gradients,
             const Gradients *norm_gradients) {
#pragma omp parallel num_threads(threads)
        {
            TileConfig config;
            _tile_loadconfig(&config);
            read_gradient(given);
            for (int64_t i = 1; i < shape.blocks; i++) pack_convolution_back(i, parameters[i].weight);
            pack_dense_back(parameters[shape.blocks].weight, parameters[shape.blocks + 1].weight);
#pragma omp barrier
            head_backward(dropout, gradients[shape.blocks + 1]);
            dense_backward(gradients[shape.blocks]);
            for (int64_t i = shape.blocks - 1; i >= 0; i--) {
                gradient_moments(i);
#pragma omp single
                normalize_backward(i, norm_gradients[i]);
                unpool(i);
                weight_gradient(i, gradients[i]);
                if (i) image_gradient(i);
            }
            _tile_release();
        }
    }

 private:
    struct Matrix {
        BFloat16 *values, *turned;
        int64_t columns, out;  // `out` of the columns are there
    };

    void read_gradient(const float *given) {
#pragma omp for schedule(static) nowait
        for (int64_t group = 0; group < groups; group++) {
            BFloat16 *to = logits_gradient + group * GROUP * padded_classes;
            for (int64_t n = 0; n < images_of(group); n++)
                for (int64_t c = 0; c < shape.classes; c += 16)
                    round_some(given + (group * GROUP + n) * shape.classes + c, shape.classes - c,
                               to + n * padded_classes + c);
        }
    }

    // For the derivative by the images: windows turned round, outputs as terms.
    void pack_convolution_back(int64_t i, const float *weight) {
        const Block &block = blocks[i];
        Weights weights{weight, block.out, 9 * block.in};
        int64_t outs = block.out / GROUP, chunks = 9 * outs;
#pragma omp for schedule(static) nowait
        for (int64_t each = 0; each < block.in / GROUP * chunks; each++) {
            int64_t place = each % chunks / outs, c = each / chunks * GROUP;
            weights.pack_terms((8 - place) * block.in + c, each % outs * GROUP, block.packed + each * PAIR, zip);
        }
    }

    void pack_dense_back(const float *dense, const float *head) {
        Weights weights{dense, shape.hidden, flat}, last{head, shape.classes, shape.hidden};
        int64_t chunks = shape.hidden / GROUP, last_chunks = padded_classes / GROUP;
#pragma omp for schedule(static) nowait
        for (int64_t each = 0; each < flat / GROUP * chunks; each++)
            weights.pack_terms(each / chunks * GROUP, each % chunks * GROUP, dense_packed + each * PAIR, zip);
#pragma omp for schedule(static) nowait
        for (int64_t each = 0; each < shape.hidden / GROUP * last_chunks; each++)
            last.pack_terms(each / last_chunks * GROUP, each % last_chunks * GROUP, head_packed + each * PAIR, zip);
    }

    void head_backward(double dropout, const Gradients &gradients) {
        std::vector<int64_t> offsets = row_offsets(padded_classes);
        int64_t columns = shape.hidden / GROUP;
        __m512 scale = scale_of_kept(dropout);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < groups * columns; task++) {
            int64_t group = task / columns, c = task % columns * GROUP;
            multiply(logits_gradient + group * GROUP * padded_classes, padded_classes, offsets,
                     head_packed + c * padded_classes);
            each_row(images_of(group), [&](int64_t n, __m512 low, __m512 high) {
                int64_t place = (group * GROUP + n) * shape.hidden + c;
                __m512i kept = load(hidden + place);  // 0 where ReLU or dropout took it
                __m512i rounded = round_two(_mm512_mul_ps(low, scale), _mm512_mul_ps(high, scale));
                store(hidden_gradient + place, _mm512_maskz_mov_epi16(_mm512_test_epi16_mask(kept, kept), rounded));
            });
        }
        Matrix given{logits_gradient, logits_turned, padded_classes, shape.classes};
        linear_gradient(given, hidden, Grid{1, 0, shape.hidden}, shape.hidden, gradients);
    }

    void dense_backward(const Gradients &gradients) {
        const Block &last = blocks.back();
        Matrix given{hidden_gradient, hidden_turned, shape.hidden, shape.hidden};
        linear_gradient(given, last.y, last.next, flat, gradients);
        std::vector<int64_t> offsets = row_offsets(shape.hidden);
        int64_t columns = flat / GROUP;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < groups * columns; task++) {
            int64_t group = task / columns, c = task % columns * GROUP;
            multiply(hidden_gradient + group * GROUP * shape.hidden, shape.hidden, offsets,
                     dense_packed + c * shape.hidden);
            BFloat16 *to =
                last.gradient + group * last.pooled.group() + c / last.out * last.pooled.place() + c % last.out;
            each_row(images_of(group),
                     [&](int64_t n, __m512 low, __m512 high) { store(to + n * last.out, round_two(low, high)); });
        }
    }

    // A dense layer's derivative by its weights: (out, terms). Its images lie in a grid without border.
    void linear_gradient(const Matrix &given, const BFloat16 *from, const Grid &grid, int64_t terms,
                         const Gradients &gradients) {
        int64_t columns = given.columns / GROUP;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < columns; task++) {
            Floats sum;
            for (int64_t group = 0; group < groups; group++) {
                const BFloat16 *rows = given.values + group * GROUP * given.columns + task * GROUP;
                turn(rows, given.columns, given.turned + (group * given.columns + task * GROUP) * GROUP, zip);
                for (int64_t n = 0; n < GROUP; n++) sum.add(Floats(load(rows + n * given.columns)));
            }
            double biases[GROUP] = {};
            sum.add_to(biases);
            for (int64_t i = 0; i < std::min(GROUP, given.out - task * GROUP); i++)
                gradients.bias[task * GROUP + i] = biases[i];
        }
        BFloat16 *pairs = packed + omp_get_thread_num() * most_packed;
        std::vector<int64_t> offsets;
        for (int64_t group = 0; group < groups; group++) offsets.push_back(group * given.columns * GROUP);
#pragma omp for schedule(static)
        for (int64_t c = 0; c < terms; c += GROUP) {
            for (int64_t group = 0; group < groups; group++) {
                const BFloat16 *rows =
                    from + group * grid.group() + c / grid.channels * grid.place() + c % grid.channels;
                for (int64_t n = 0; n < GROUP; n += 2)
                    pack_images(rows + n * grid.channels, grid.channels, pairs + group * PAIR + n / 2 * GROUP);
            }
            for (int64_t k = 0; k < given.out; k += GROUP) {
                multiply(given.turned + k * GROUP, GROUP, offsets, pairs);
                each_row(std::min(GROUP, given.out - k), [&](int64_t row, __m512 low, __m512 high) {
                    float *to = gradients.weight + (k + row) * terms + c;
                    _mm512_storeu_ps(to, low);
                    _mm512_storeu_ps(to + 16, high);
                });
            }
        }
    }

    // 32 values of two images, by turns, as a row of two tiles.
    void pack_images(const BFloat16 *from, int64_t stride, BFloat16 *to) const {
        __m512i first = load(from), second = load(from + stride);
        _mm512_store_si512(to, _mm512_permutex2var_epi16(first, zip.low, second));
        _mm512_store_si512(to + TILE, _mm512_permutex2var_epi16(first, zip.high, second));
    }

    // Sums of y's gradient, and of its products with the x that each window kept.
    void gradient_moments(int64_t i) {
        const Block &block = blocks[i];
        int64_t side = block.pooled.side;
        double *own = own_totals(2 * block.out);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < groups * side; task++) {
            int64_t group = task / side, at = block.pooled.at(group, task % side, 0);
            for (int64_t c = 0; c < block.out; c += GROUP) {
                Floats sum, products;
                for (int64_t n = 0; n < block.pooled.row(); n += block.out) {  // images that are lacking are zeros
                    Floats gradient(load(block.gradient + at + n + c));
                    sum.add(gradient);
                    products.add_product(gradient, Floats(load(block.best + at + n + c)));
                }
                sum.add_to(own + c);
                products.add_to(own + block.out + c);
            }
        }
    }

    // The batch's own statistics move with x: that is what k0 and k1 take away.
    void normalize_backward(int64_t i, const Gradients &gradients) {
        const Block &block = blocks[i];
        double count = double(shape.batch) * block.features.side * block.features.side;
        for (int64_t c = 0; c < block.out; c++) {
            double sum = total(c), products = (total(block.out + c) - block.mean[c] * sum) * block.scale[c];
            gradients.bias[c] = sum;
            gradients.weight[c] = products;
            double slope = block.a[c] * block.scale[c] * products / count;
            block.k1[c] = slope;
            block.k0[c] = block.a[c] * sum / count - slope * block.mean[c];
        }
    }

    // x becomes the derivative by the convolution's output.
    void unpool(int64_t i) {
        const Block &block = blocks[i];
        int64_t side = block.pooled.side, right = block.features.place(), below = block.features.row();
#pragma omp for schedule(static)
        for (int64_t task = 0; task < groups * side; task++) {
            int64_t group = task / side, h = task % side, count = images_of(group) * block.out;
            for (int64_t w = 0; w < side; w++)
                for (int64_t c = 0; c < block.out; c += GROUP) {
                    Floats a = Floats::of(block.a + c), k0 = Floats::of(block.k0 + c), k1 = Floats::of(block.k1 + c);
                    BFloat16 *x = block.x + block.features.at(group, 2 * h, 2 * w) + c;
                    int64_t pooled = block.pooled.at(group, h, w) + c;
                    for (int64_t n = 0; n < count; n += block.out) {
                        __m512i best = load(block.best + pooled + n), gradient = load(block.gradient + pooled + n);
                        __mmask32 left = -1;
                        for (int64_t at : {int64_t(0), right, below, below + right}) {
                            __m512i value = load(x + n + at);
                            __mmask32 chosen = _mm512_mask_cmpeq_epi16_mask(left, value, best);
                            left &= ~chosen;
                            Floats each(value), given(_mm512_maskz_mov_epi16(chosen, gradient));
                            Floats result(_mm512_fnmsub_ps(k1.even, each.even, k0.even),
                                          _mm512_fnmsub_ps(k1.odd, each.odd, k0.odd));
                            result.add_product(a, given);
                            __mmask32 passed = _mm512_test_epi16_mask(value, value);
                            store(x + n + at, _mm512_maskz_mov_epi16(passed, result.rounded(zip)));
                        }
                    }
                }
        }
    }

    // The sum over all images and places; a tile of the input has 16 of the 3 * in values that lie beside each other in
    // a row of windows.
    void weight_gradient(int64_t i, const Gradients &gradients) {
        const Block &block = blocks[i];
        int64_t side = block.features.side, tasks = groups * side, tiles = 3 * block.row_tiles();
        int thread = omp_get_thread_num(), team = omp_get_num_threads();
        int64_t begin = tasks * thread / team, end = tasks * (thread + 1) / team;
        float *own_sums = sums + thread * num_sums;
        BFloat16 *own_packed = packed + thread * most_packed;
        double *own = own_totals(block.out);
        std::memset(own_sums, 0, tiles * block.out_tiles() * SUMS * sizeof(float));
        for (int64_t first = begin; first < end; first += STRIP) {
            int64_t last = std::min(first + STRIP, end);
            for (int64_t task = first; task < last; task++)
                pack_gradient(block, task, own_packed + (task - first) * side * block.out_tiles() * TILE, own);
            for (int64_t out = 0; out < block.out_tiles(); out += 2)
                for (int64_t tile = 0; tile < tiles; tile += 2)
                    add_products(block, first, last, tile, out, own_packed, own_sums, tile + 1 < tiles);
        }
#pragma omp barrier
#pragma omp for schedule(static) nowait
        for (int64_t tile = 0; tile < tiles; tile++) gather(block, tile, gradients.weight);
#pragma omp for schedule(static)
        for (int64_t c = 0; c < block.out; c++) gradients.bias[c] = total(c);
    }

    // A row of the output's gradient as tiles: by place and 16 channels. Adds it up on the way.
    void pack_gradient(const Block &block, int64_t task, BFloat16 *to, double *own) const {
        int64_t side = block.features.side;
        const BFloat16 *row = block.x + block.features.at(task / side, task % side, 0);
        for (int64_t c = 0; c < block.out; c += GROUP) {
            Floats sum;
            for (int64_t w = 0; w < side; w++)
                for (int64_t n = 0; n < GROUP; n += 2) {
                    const BFloat16 *from = row + w * block.features.place() + n * block.out + c;
                    pack_images(from, block.out, to + (w * block.out_tiles() + c / SIDE) * TILE + n / 2 * GROUP);
                    sum.add(Floats(load(from)));
                    sum.add(Floats(load(from + block.out)));
                }
            sum.add_to(own + c);
        }
    }

    void add_products(const Block &block, int64_t first, int64_t last, int64_t tile, int64_t out,
                      const BFloat16 *packed, float *sums, bool two) const {
        int64_t side = block.features.side, step = block.out_tiles() * TILE;
        const BFloat16 *b = packed + out * TILE;
        float *sum = sums + (tile * block.out_tiles() + out) * SUMS, *under = sum + block.out_tiles() * SUMS;
        auto place = [&](int64_t tile, int64_t task) {
            int64_t row = task / side * (side + 2) + task % side + tile / block.row_tiles();
            return block.turned + row * block.turned_line + tile % block.row_tiles() * TILE;
        };
        _tile_loadd(0, sum, 64);
        _tile_loadd(1, sum + SUMS, 64);
        if (two) {
            _tile_loadd(2, under, 64);
            _tile_loadd(3, under + SUMS, 64);
        }
        for (int64_t task = first; task < last; task++) {
            const BFloat16 *a0 = place(tile, task), *a1 = place(tile + 1, task);
            for (int64_t w = 0; w < side; w++, b += step) {
                _tile_loadd(4, a0 + w * block.in * GROUP, 64);
                _tile_loadd(6, b, 64);
                _tile_loadd(7, b + TILE, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                if (two) {
                    _tile_loadd(5, a1 + w * block.in * GROUP, 64);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
        }
        _tile_stored(0, sum, 64);
        _tile_stored(1, sum + SUMS, 64);
        if (two) {
            _tile_stored(2, under, 64);
            _tile_stored(3, under + SUMS, 64);
        }
    }

    // Adds up what the threads have of one row of tiles, and puts it where it belongs.
    void gather(const Block &block, int64_t tile, float *to) const {
        int64_t row = tile / block.row_tiles(), first = tile % block.row_tiles() * SIDE;
        for (int64_t i = 0; i < SIDE && first + i < block.window(); i++)
            for (int64_t out = 0; out < block.out_tiles(); out++) {
                float result[SIDE] = {};
                for (int thread = 0; thread < omp_get_num_threads(); thread++) {
                    const float *from = sums + thread * num_sums + (tile * block.out_tiles() + out) * SUMS + i * SIDE;
                    for (int64_t j = 0; j < SIDE; j++) result[j] += from[j];
                }
                for (int64_t j = 0; j < SIDE; j++)
                    to[((out * SIDE + j) * 3 + row) * block.window() + first + i] = result[j];
            }
    }

    // What the block before has as y's gradient.
    void image_gradient(int64_t i) {
        const Block &block = blocks[i], &before = blocks[i - 1];
        std::vector<int64_t> offsets = window_offsets(block.features);
        int64_t side = block.features.side;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < groups * side; task++) {
            int64_t group = task / side, h = task % side;
            for (int64_t c = 0; c < block.in; c += GROUP)
                for (int64_t w = 0; w < side; w++) {
                    multiply(block.x + block.features.at(group, h - 1, w - 1), block.out, offsets,
                             block.packed + c / GROUP * offsets.size() * PAIR);
                    BFloat16 *to = before.gradient + before.pooled.at(group, h, w) + c;
                    each_row(images_of(group), [&](int64_t n, __m512 low, __m512 high) {
                        store(to + n * block.in, round_two(low, high));
                    });
                }
        }
    }
};

}  // namespace

extern "C" void training_backward(const Shape *shape, int threads, char *workspace, const Parameters *parameters,
                                  double dropout, const float *given, const Gradients *gradients,
                                  const Gradients *norm_gradients) {
    Backward(*shape, threads, workspace).run(parameters, dropout, given, gradients, norm_gradients);
}

#endif
