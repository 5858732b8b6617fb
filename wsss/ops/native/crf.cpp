// Dense CRF by mean field on the permutohedral lattice, for one image and one thread.
//
// Kraehenbuehl & Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials", NIPS 2011.
// Compile with -ffp-contract=off: a fused multiply-add in the embedding moves points to other simplices.
//
// What makes it fast: slice, softmax and splat are one pass over the pixels, in blocks, and the marginals are never
// stored; vertices are numbered as the pixels meet them, and blurred in the order of their keys, in which a vertex and
// its neighbours lie near each other and advance together; lattice points are single 64-bit keys; messages are in
// units of log 2, so that the softmax takes powers of two.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "build_lattice.h"
#include "lattice.h"
#include "softmax.h"
#include "vectors.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

struct Problem {
    const Lattice* lattice[2];
    float weight[2];
    const float* probabilities;  // labels x points; below 1e-5 they count as that
    const float* copies;         // labels: how many equal labels each stands for
    int labels;
    int iterations;
    float* marginals;  // labels x points
};

// Denormal products would slow the passes several times over.
class FlushDenormals {
  public:
#if defined(__SSE2__)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#endif
};

constexpr float kSmallest = 1e-5f;  // probability

// Planes of a value for each point, to vectors of kWide points, all labels of which lie together; and back.
void load_planes(const Problem& problem, Wide* vectors) {
    const size_t points = problem.lattice[0]->points;
    for (size_t start = 0; start < points; start += kWide)
        for (int k = 0; k < problem.labels; ++k) {
            const float* from = problem.probabilities + static_cast<size_t>(k) * points + start;
            Wide given = Wide{} + 1.0f;
            if (start + kWide <= points) std::memcpy(&given, from, sizeof given);
            else std::memcpy(&given, from, (points - start) * sizeof(float));
            *vectors++ = larger(given, Wide{} + kSmallest) * problem.copies[k];
        }
}
void store_planes(const Problem& problem, const Wide* vectors) {
    const size_t points = problem.lattice[0]->points;
    for (size_t start = 0; start < points; start += kWide)
        for (int k = 0; k < problem.labels; ++k) {
            float* to = problem.marginals + static_cast<size_t>(k) * points + start;
            const Wide made = *vectors++;
            if (start + kWide <= points) std::memcpy(to, &made, sizeof made);
            else std::memcpy(to, &made, (points - start) * sizeof(float));
        }
}

// The tables of one lattice: the values of the last step, and those of the next one.
template <class V>
struct Tables {
    Tables(const Lattice& lattice, int width)
        : size((static_cast<size_t>(lattice.vertices) + 1) * static_cast<size_t>(width)), both(2 * size) {}

    size_t size;
    Buffer<V> both;
    V* now = both.data();
    V* then = both.data() + size;
};

// The last step leaves the marginals where the priors were. L labels, or as many as the problem has if L = 0.
template <class V, int C, int L = 0>
void iterate(const Problem& problem, int count, Wide* priors) {
    constexpr int kBlock = 16, lanes = Row<V, C>::kWidth;
    const int width = C ? C : count, labels = L ? L : problem.labels;
    const Lattice &near = *problem.lattice[0], &alike = *problem.lattice[1];
    const size_t points = near.points;
    constexpr float log2_e = 1.44269504f;
    const float factors[2] = {log2_e * problem.weight[0] * near.slice_factor(),
                              log2_e * problem.weight[1] * alike.slice_factor()};
    Tables<V> tables[2] = {{near, width}, {alike, width}};
    float share[Row<V, C>::kStored * lanes];
    for (int k = 0; k < labels; ++k) share[k] = 1.0f / problem.copies[k];
    V rows[kBlock * Row<V, C>::kStored] = {};
    for (int step = 0; step <= problem.iterations; ++step) {
        const bool last = step == problem.iterations;
        for (int m = 0; m < 2; ++m) {
            Tables<V>& table = tables[m];
            if (step && blur<V, C>(*problem.lattice[m], table.now, table.then, width) == table.then)
                std::swap(table.now, table.then);
            if (!last) std::memset(static_cast<void*>(table.then), 0, table.size * sizeof(V));
        }
        for (size_t start = 0; start < points; start += kBlock) {
            const int block = static_cast<int>(std::min<size_t>(kBlock, points - start));
            for (int p = 0; step && p < block; ++p) {
                V* row = rows + p * width;
                for (int c = 0; c < width; ++c) row[c] = V{};
                __builtin_prefetch(near.corners.data() + (start + p + kAhead) * 3);
                __builtin_prefetch(alike.corners.data() + (start + p + kAhead) * 6);
                gather<V, C>(near.corners.data() + (start + p) * 3, 3, tables[0].now, width, factors[0], row);
                gather<V, C>(alike.corners.data() + (start + p) * 6, 6, tables[1].now, width, factors[1], row);
            }
            for (int first = 0; first < block; first += kWide) {
                V* group = rows + first * width;
                Wide* prior = priors + (start + first) / kWide * labels;
                Wide q[Row<V, C>::kStored * lanes];
                if (step) softmax<V, C, true>(group, width, prior, share, labels, q);
                else softmax<V, C, false>(group, width, prior, share, labels, q);
                if (last) std::copy_n(q, labels, prior);
                else for (int c = 0; c < width; ++c) store_labels(q + c * lanes, group + c, width);
            }
            for (int p = 0; !last && p < block; ++p) {
                const V* row = rows + p * width;
                scatter<V, C>(near.corners.data() + (start + p) * 3, 3, tables[0].then, width, row);
                scatter<V, C>(alike.corners.data() + (start + p) * 6, 6, tables[1].then, width, row);
            }
        }
        for (Tables<V>& table : tables) std::swap(table.now, table.then);
    }
}

// Labels are computed in this many lanes.
int padded(int labels) {
    for (const int lanes : {4, 8, 12, 16, 24})
        if (labels <= lanes) return lanes;
    return (labels + kWide - 1) / kWide * kWide;
}

size_t vectors_of(const Lattice& lattice, int labels) {
    return (lattice.points + kWide - 1) / kWide * static_cast<size_t>(labels);
}

void infer(const Problem& problem) {
    Buffer<Wide> priors(vectors_of(*problem.lattice[0], problem.labels));
    load_planes(problem, priors.data());
    switch (problem.labels < 4 ? problem.labels : padded(problem.labels)) {
        case 2: iterate<Floats<4>, 1, 2>(problem, 1, priors.data()); break;
        case 3: iterate<Floats<4>, 1, 3>(problem, 1, priors.data()); break;
        case 1:
        case 4: iterate<Floats<4>, 1>(problem, 1, priors.data()); break;
        case 8: iterate<Wide, 8 / kWide>(problem, 0, priors.data()); break;
        case 12: iterate<Floats<4>, 3>(problem, 0, priors.data()); break;
        case 16: iterate<Wide, 16 / kWide>(problem, 0, priors.data()); break;
        case 24: iterate<Wide, 24 / kWide>(problem, 0, priors.data()); break;
        default: iterate<Wide, 0>(problem, padded(problem.labels) / kWide, priors.data());
    }
    store_planes(problem, priors.data());
}

}  // namespace

// -------------------------------------------------------------------------------------------------------- interface

// The lattice of the pixel positions of a height x width image; null if the deviation is too small, if there would be
// more vertices than `most`, or if memory is short.
EXPORT void* wsss_grid_lattice(int height, int width, float sxy, size_t most) {
    try {
        if (height < 1 || width < 1 || !(sxy > 0)) return nullptr;
        const float extent[2] = {static_cast<float>(width) / sxy, static_cast<float>(height) / sxy};
        const size_t columns = static_cast<size_t>(width);
        return build<2>(columns * static_cast<size_t>(height), most, extent, [=](int axis, size_t point) {
                   return static_cast<float>(axis ? point / columns : point % columns) / sxy;
               }).release();
    } catch (...) {
        return nullptr;
    }
}

// The lattice of positions and colours of an interleaved 8-bit RGB image; null as above.
EXPORT void* wsss_colour_lattice(
    const uint8_t* image, int height, int width, float sxy, float srgb, size_t most) {
    try {
        if (!image || height < 1 || width < 1 || !(sxy > 0) || !(srgb > 0)) return nullptr;
        const float colour = 255.0f / srgb;
        const float extent[5] = {static_cast<float>(width) / sxy, static_cast<float>(height) / sxy, colour, colour, colour};
        const size_t columns = static_cast<size_t>(width);
        return build<5>(columns * static_cast<size_t>(height), most, extent, [=](int axis, size_t point) {
                   if (axis >= 2) return static_cast<float>(image[point * 3 + static_cast<size_t>(axis) - 2]) / srgb;
                   return static_cast<float>(axis ? point / columns : point % columns) / sxy;
               }).release();
    } catch (...) {
        return nullptr;
    }
}

EXPORT void wsss_free_lattice(void* lattice) { delete static_cast<Lattice*>(lattice); }

// How many bytes of memory mean field over so many labels takes at a time, the marginals included.
EXPORT size_t wsss_mean_field_bytes(const void* grid, const void* colour, int labels) {
    const auto* near = static_cast<const Lattice*>(grid);
    const auto* alike = static_cast<const Lattice*>(colour);
    const size_t vertices = static_cast<size_t>(near->vertices) + static_cast<size_t>(alike->vertices);
    const size_t planes = vectors_of(*near, labels) * sizeof(Wide);
    return planes + std::max(planes, 2 * vertices * static_cast<size_t>(padded(labels)) * sizeof(float));
}

// Marginals (labels x points) after mean field; 0, or 1 for arguments that don't fit, 2 when memory is short.
EXPORT int wsss_mean_field(
    const void* grid, float grid_weight, const void* colour, float colour_weight, const float* probabilities,
    const float* copies, int labels, int iterations, float* marginals) {
    const auto* near = static_cast<const Lattice*>(grid);
    const auto* alike = static_cast<const Lattice*>(colour);
    if (!near || !alike || !probabilities || !copies || !marginals || labels < 1 || labels > 8 * kMost || iterations < 0 ||
        near->dimensions != 2 || alike->dimensions != 5 || near->points != alike->points)
        return 1;
    const Problem problem{{near, alike}, {grid_weight, colour_weight}, probabilities, copies,
                          labels,        iterations, marginals};
    const FlushDenormals flush;
    try {
        infer(problem);
    } catch (const std::bad_alloc&) {
        return 2;
    }
    return 0;
}

// The x86-64 micro-architecture level that this processor reaches (1 to 4); 0 on other processors.
EXPORT int wsss_processor_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512bw"))
        return 3;
    return 4;
#else
    return 0;
#endif
}
