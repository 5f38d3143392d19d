// A training step of the three-block network, from normalised images to logits and back to the derivatives of all its
// weights, on the tile multiplier (AMX) of x86-64: bfloat16 in, sums in float.
//
// Everything is kept by groups of 32 images, which lie innermost but for the channels: (group, row, column, image,
// channel). The multiplier takes a tile of 16 rows of 32 values. Its rows are images here, so that a window's place is
// only an address; and where the sum goes over the images (the derivative by the weights), its 32 values are. Rows and
// columns that windows reach beyond the edge are a border of zeros, and so are the images that the last group lacks:
// they are zero when the workspace is new, and nothing ever writes there.
//
// Batch norm keeps the order of a channel's values (or turns it round, where its factor is negative), so that the
// largest of a window is found before it. Of a block are kept: x, what ReLU leaves of the convolution, which backward
// turns into the derivative by the convolution's output, in place; and of each window the x that was chosen.
//
// Sums over images and places are taken in float over a row and then in double, for each thread apart and in a fixed
// order: with the same number of threads the result is the same to the last bit.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include <omp.h>

#include "tiles.h"

namespace {

constexpr int64_t COLORS = 3;
constexpr int64_t STRIP = 4;  // rows whose gradient is packed at a time, so that it stays in the cache
constexpr int MAX_BLOCKS = 5;

struct Shape {
    int64_t batch, side, blocks, channels[MAX_BLOCKS], hidden, classes;
};

inline int64_t up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// (group, row, column, image, channel), with a border of places around the rows and columns.
struct Grid {
    int64_t side, border, channels;

    int64_t width() const { return side + 2 * border; }
    int64_t place() const { return GROUP * channels; }
    int64_t row() const { return width() * place(); }
    int64_t group() const { return width() * row(); }
    int64_t at(int64_t g, int64_t h, int64_t w) const {
        return g * group() + (h + border) * row() + (w + border) * place();
    }
};

struct Parameters {
    const float *weight, *bias;
};

struct Gradients {
    float *weight, *bias;
};

struct Block {
    int64_t in, out;
    Grid features, pooled, next;  // of x; of what each window keeps; of y, the next block's images
    BFloat16 *x, *best, *gradient, *y;
    BFloat16 *turned;     // its input with the images innermost: (group, row, column and channel, image)
    int64_t turned_line;  // values in a row of that
    BFloat16 *packed;     // its weights
    float *a, *b, *k0, *k1, *mean, *scale;  // batch norm: y = a * x + b, dz = a * dy - k0 - k1 * x

    int64_t window() const { return 3 * in; }  // values beside each other in a row of a window
    int64_t row_tiles() const { return (window() + SIDE - 1) / SIDE; }
    int64_t out_tiles() const { return out / SIDE; }
};

// Takes pieces of the workspace, or only counts them.
struct Pieces {
    char *base;
    int64_t used = 0;

    template <typename T>
    T *take(int64_t count) {
        T *piece = reinterpret_cast<T *>(base + used);
        used += up(count * sizeof(T), ALIGNMENT);
        return piece;
    }
};

// The workspace of a step, which forward and backward share.
class Step {
 public:
    Step(const Shape &shape, int threads, char *workspace)
        : shape(shape),
          threads(threads),
          groups(up(shape.batch, GROUP) / GROUP),
          line(up((shape.side + 2) * COLORS + GROUP, GROUP)) {
        Pieces pieces{workspace};
        images = pieces.take<BFloat16>(groups * (shape.side + 2) * GROUP * line);
        most_packed = groups * PAIR;
        int64_t side = shape.side, before = COLORS, most_sums = 0, most_channels = shape.hidden;
        for (int64_t i = 0; i < shape.blocks; i++, side /= 2) {
            int64_t out = shape.channels[i];
            Block block{before, out, {side, 1, out}, {side / 2, 0, out}, {side / 2, i + 1 < shape.blocks, out}};
            block.x = pieces.take<BFloat16>(groups * block.features.group());
            block.best = pieces.take<BFloat16>(groups * block.pooled.group());
            block.gradient = pieces.take<BFloat16>(groups * block.pooled.group());
            block.y = pieces.take<BFloat16>(groups * block.next.group());
            block.turned_line = i ? (side + 2) * before * GROUP : line * GROUP;
            block.turned = pieces.take<BFloat16>(groups * (side + 2) * block.turned_line);
            block.packed = pieces.take<BFloat16>(9 * up(before, GROUP) * out);
            for (float **each : {&block.a, &block.b, &block.k0, &block.k1, &block.mean, &block.scale})
                *each = pieces.take<float>(out);
            most_sums = std::max(most_sums, 3 * block.row_tiles() * block.out_tiles() * SUMS);
            most_packed = std::max(most_packed, STRIP * side * block.out_tiles() * TILE);
            most_channels = std::max(most_channels, out);
            before = out;
            blocks.push_back(block);
        }
        flat = before * side * side;
        padded_classes = up(shape.classes, GROUP);
        hidden = pieces.take<BFloat16>(groups * GROUP * shape.hidden);
        hidden_gradient = pieces.take<BFloat16>(groups * GROUP * shape.hidden);
        hidden_turned = pieces.take<BFloat16>(groups * GROUP * shape.hidden);
        logits_gradient = pieces.take<BFloat16>(groups * GROUP * padded_classes);
        logits_turned = pieces.take<BFloat16>(groups * GROUP * padded_classes);
        dense_packed = pieces.take<BFloat16>(flat * shape.hidden);
        head_packed = pieces.take<BFloat16>(shape.hidden * padded_classes);
        num_sums = most_sums;
        num_totals = 2 * most_channels;
        sums = pieces.take<float>(threads * num_sums);
        packed = pieces.take<BFloat16>(threads * most_packed);
        totals = pieces.take<double>(threads * num_totals);
        bytes = pieces.used;
    }

    int64_t bytes;

 protected:
    Shape shape;
    int threads;
    int64_t groups, line, flat, padded_classes, num_sums, num_totals, most_packed;
    std::vector<Block> blocks;
    BFloat16 *images, *hidden, *hidden_gradient, *hidden_turned, *logits_gradient, *logits_turned;
    BFloat16 *dense_packed, *head_packed, *packed;
    float *sums;
    double *totals;
    Zip zip;

    int64_t images_of(int64_t group) const { return std::min(GROUP, shape.batch - group * GROUP); }

    double *own_totals(int64_t count) {
        double *own = totals + omp_get_thread_num() * num_totals;
        std::memset(own, 0, count * sizeof(double));
        return own;
    }

    double total(int64_t i) const {
        double result = 0;
        for (int thread = 0; thread < omp_get_num_threads(); thread++) result += totals[thread * num_totals + i];
        return result;
    }

    // What dropout multiplies by what it leaves.
    static __m512 scale_of_kept(double dropout) { return _mm512_set1_ps(dropout < 1 ? 1 / (1 - dropout) : 0); }

    // The terms of a 3x3 window: by rows, columns and channels.
    static std::vector<int64_t> window_offsets(const Grid &grid) {
        std::vector<int64_t> offsets;
        for (int64_t place = 0; place < 9; place++)
            for (int64_t c = 0; c < grid.channels; c += GROUP)
                offsets.push_back(place / 3 * grid.row() + place % 3 * grid.place() + c);
        return offsets;
    }

    // The terms of a dense layer.
    static std::vector<int64_t> row_offsets(int64_t terms) {
        std::vector<int64_t> offsets;
        for (int64_t term = 0; term < terms; term += GROUP) offsets.push_back(term);
        return offsets;
    }
};

}  // namespace
