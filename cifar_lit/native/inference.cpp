// All of a trained three-block network, from pixels to probabilities, in one call: no operation in between has to ask
// for Python's interpreter, which a server's other thread holds, and nothing is written that is not read again.
//
// Images are channels-last. A convolution goes over two rows of four pixels and 32 output channels at a time, so that
// its sums, and after them ReLU, batch norm and pooling, stay in registers. What it reads has a border of zeros. Each
// sum has its terms in one order whatever the batch: a picture's answer is the same to the last bit in any company.

#include <cstdint>

#if defined(__AVX512F__)

#include <cmath>
#include <cstring>
#include <vector>

namespace {

typedef float Vector __attribute__((vector_size(64)));

constexpr int64_t LANES = 16;         // floats in a vector
constexpr int64_t PANEL = 2 * LANES;  // outputs at a time
constexpr int64_t COLUMNS = 4;        // pixels at a time, in each of two rows
constexpr int64_t GROUP = 8;          // images that share a reading of the dense layers' weights
constexpr int64_t RUN = 64;           // terms that a dense layer adds up by themselves: long sums lose more

struct Shape {
    int64_t side, channels, depth, width, hidden, classes;
};

inline Vector load(const float *from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

inline void store(float *to, Vector vector) { std::memcpy(to, &vector, sizeof vector); }

inline Vector relu(Vector x) { return x < 0 ? Vector{} : x; }

// Where one is not a number, neither is the larger.
inline Vector larger(Vector a, Vector b) { return (a < b) | (b != b) ? b : a; }

inline int64_t in_panels(int64_t outputs) { return (outputs + PANEL - 1) / PANEL * PANEL; }

// `image` is (side + 2, side + 2, in) with its border. `values` are the weights, (out / PANEL, 3, 3, in, PANEL), then
// bias, scale and shift, (out) each. `pooled` is (side / 2 + 2 * border, side / 2 + 2 * border, out). Gives the values
// of the next layer.
const float *block(const float *image, int64_t side, int64_t in, int64_t out, const float *values, float *pooled,
                   int64_t border) {
    const float *bias = values + 9 * in * out, *scale = bias + out, *shift = scale + out;
    int64_t row = (side + 2) * in, pooled_row = (side / 2 + 2 * border) * out;
    for (int64_t first = 0; first < out; first += PANEL) {
        for (int64_t y = 0; y < side; y += 2) {
            for (int64_t x = 0; x < side; x += COLUMNS) {
                Vector totals[2][COLUMNS][2];
                for (auto &line : totals)
                    for (auto &pixel : line)
                        for (int half = 0; half < 2; half++) pixel[half] = load(bias + first + half * LANES);
                const float *weights = values + 9 * in * first;
                for (int64_t tap = 0; tap < 3; tap++) {
                    const float *corner = image + (y + tap) * row + x * in;
                    Vector sums[2][COLUMNS][2] = {};
                    for (int64_t i = 0; i < 3 * in; i++, weights += PANEL) {  // three pixels beside each other
                        Vector low = load(weights), high = load(weights + LANES);
#pragma GCC unroll 2
                        for (int64_t line = 0; line < 2; line++) {
#pragma GCC unroll 4
                            for (int64_t pixel = 0; pixel < COLUMNS; pixel++) {
                                float value = corner[line * row + pixel * in + i];
                                sums[line][pixel][0] += value * low;
                                sums[line][pixel][1] += value * high;
                            }
                        }
                    }
                    for (int64_t line = 0; line < 2; line++)
                        for (int64_t pixel = 0; pixel < COLUMNS; pixel++)
                            for (int half = 0; half < 2; half++) totals[line][pixel][half] += sums[line][pixel][half];
                }
                float *to = pooled + (y / 2 + border) * pooled_row + (x / 2 + border) * out + first;
                for (int64_t pixel = 0; pixel < COLUMNS; pixel += 2) {
                    for (int half = 0; half < 2; half++) {
                        Vector a = load(scale + first + half * LANES), b = load(shift + first + half * LANES);
                        auto normal = [&](int line, int64_t place) { return relu(totals[line][place][half]) * a + b; };
                        Vector upper = larger(normal(0, pixel), normal(0, pixel + 1));
                        Vector lower = larger(normal(1, pixel), normal(1, pixel + 1));
                        store(to + pixel / 2 * out + half * LANES, larger(upper, lower));
                    }
                }
            }
        }
    }
    return shift + out;
}

// N rows of `in` values to rows of `out`. `values` are the weights, (out / PANEL, in, PANEL), then the bias, (out).
template <int N>
void dense_rows(const float *rows, int64_t in, int64_t out, const float *values, float *results) {
    const float *bias = values + in * out;
    for (int64_t first = 0; first < out; first += PANEL) {
        const float *weights = values + in * first;
        for (int64_t n = 0; n < N; n++) std::memcpy(results + n * out + first, bias + first, PANEL * sizeof(float));
        for (int64_t begin = 0; begin < in; begin += RUN) {
            int64_t end = begin + RUN < in ? begin + RUN : in;
            Vector sums[N][2] = {};
            for (int64_t i = begin; i < end; i++, weights += PANEL) {
                Vector low = load(weights), high = load(weights + LANES);
#pragma GCC unroll 8
                for (int64_t n = 0; n < N; n++) {
                    float value = rows[n * in + i];
                    sums[n][0] += value * low;
                    sums[n][1] += value * high;
                }
            }
            for (int64_t n = 0; n < N; n++) {
                for (int half = 0; half < 2; half++) {
                    float *to = results + n * out + first + half * LANES;
                    store(to, load(to) + sums[n][half]);
                }
            }
        }
    }
}

const float *dense(const float *rows, int64_t count, int64_t in, int64_t out, const float *values, float *results) {
    int64_t n = 0;
    for (; n + 8 <= count; n += 8) dense_rows<8>(rows + n * in, in, out, values, results + n * out);
    for (; n + 4 <= count; n += 4) dense_rows<4>(rows + n * in, in, out, values, results + n * out);
    for (; n + 2 <= count; n += 2) dense_rows<2>(rows + n * in, in, out, values, results + n * out);
    for (; n < count; n++) dense_rows<1>(rows + n * in, in, out, values, results + n * out);
    return values + (in + 1) * out;
}

void softmax(const float *logits, int64_t classes, double *probabilities) {
    double most = logits[0], sum = 0;
    for (int64_t k = 1; k < classes; k++) most = std::fmax(most, logits[k]);
    for (int64_t k = 0; k < classes; k++) sum += probabilities[k] = std::exp(logits[k] - most);
    for (int64_t k = 0; k < classes; k++) probabilities[k] /= sum;
}

// Room for one group of images; the borders stay zero.
struct Room {
    std::vector<std::vector<float>> layers;
    std::vector<float> flat, hidden, logits;

    explicit Room(const Shape &shape) {
        int64_t channels = shape.channels, side = shape.side;
        for (int64_t i = 0; i < shape.depth; i++, side /= 2) {
            layers.emplace_back((side + 2) * (side + 2) * channels);
            channels = shape.width << i;
        }
        flat.resize(GROUP * side * side * channels);
        hidden.resize(GROUP * in_panels(shape.hidden));
        logits.resize(GROUP * in_panels(shape.classes));
    }
};

const float *normalize(const uint8_t *image, const Shape &shape, const float *values, float *bordered) {
    int64_t channels = shape.channels;
    const float *mean = values, *scale = values + channels;
    for (int64_t y = 0; y < shape.side; y++) {
        float *to = bordered + ((y + 1) * (shape.side + 2) + 1) * channels;
        for (int64_t x = 0; x < shape.side; x++)
            for (int64_t c = 0; c < channels; c++) *to++ = (*image++ - mean[c]) * scale[c];
    }
    return scale + channels;
}

void answer(const uint8_t *images, int64_t count, const float *values, const Shape &shape, Room &room,
            double *probabilities) {
    int64_t features = room.flat.size() / GROUP, hidden = in_panels(shape.hidden), classes = in_panels(shape.classes);
    const float *rest = values;
    for (int64_t n = 0; n < count; n++) {
        rest = normalize(images + n * shape.side * shape.side * shape.channels, shape, values, room.layers[0].data());
        int64_t side = shape.side, in = shape.channels;
        for (int64_t i = 0; i < shape.depth; i++, side /= 2) {
            int64_t out = shape.width << i;
            bool last = i + 1 == shape.depth;
            float *pooled = last ? room.flat.data() + n * features : room.layers[i + 1].data();
            rest = block(room.layers[i].data(), side, in, out, rest, pooled, last ? 0 : 1);
            in = out;
        }
    }
    rest = dense(room.flat.data(), count, features, hidden, rest, room.hidden.data());
    for (int64_t i = 0; i < count * hidden; i++) room.hidden[i] = room.hidden[i] < 0 ? 0 : room.hidden[i];
    dense(room.hidden.data(), count, hidden, classes, rest, room.logits.data());
    for (int64_t n = 0; n < count; n++)
        softmax(room.logits.data() + n * classes, shape.classes, probabilities + n * shape.classes);
}

}  // namespace

extern "C" {

int inference_ready() { return 1; }

// `images` are uint8 (count, side, side, channels). `values` are mean and scale, (channels) each, the blocks', and the
// two dense layers', as above. `probabilities` are double (count, classes).
void infer(const uint8_t *images, int64_t count, const float *values, Shape shape, double *probabilities,
           int threads) {
#pragma omp parallel num_threads(threads) if (count > GROUP)
    {
        Room room(shape);
#pragma omp for
        for (int64_t first = 0; first < count; first += GROUP) {
            int64_t here = count - first < GROUP ? count - first : GROUP;
            answer(images + first * shape.side * shape.side * shape.channels, here, values, shape, room,
                   probabilities + first * shape.classes);
        }
    }
}
}

#else

extern "C" int inference_ready() { return 0; }

#endif
