// The permutohedral lattice: its vertices, their neighbours, and filtering by splat, blur and slice.
//
// Adams, Baek & Davis, "Fast high-dimensional filtering using the permutohedral lattice", Eurographics 2010. The same
// vertices and the same arithmetic as the torch reference (wsss/ops/lattice.py).

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "vectors.h"

namespace {

struct Corner {
    uint32_t twice;  // the vertex's number, twice: the address of a row of 16 bytes then takes no instruction of its own
    float weight;    // barycentric weight times the point's symmetric normalisation
};

// Along one axis, as places in the order of the keys; the number of vertices where there is none.
struct Neighbours {
    int32_t next, previous;
};

struct Lattice {
    Lattice(int dimensions, size_t points)
        : dimensions(dimensions), points(points), corners(points * static_cast<size_t>(dimensions + 1)) {}

    int dimensions;
    int32_t vertices = 0;
    size_t points;
    Buffer<Corner> corners;  // points x (dimensions + 1)
    std::vector<int32_t> order;  // the vertices in the order of their keys
    std::optional<Buffer<Neighbours>> neighbours;  // (dimensions + 1) x vertices

    float slice_factor() const { return 1.0f / (1.0f + std::ldexp(1.0f, -dimensions)); }
};

// A row of labels is C vectors of type V (C = 0: as many as `count` says, up to kMost).
constexpr int kMost = 256 / kWide;

template <class V, int C>
struct Row {
    static constexpr int kStored = C ? C : kMost;
    static constexpr int kWidth = sizeof(V) / 4;
};

// How many rows ahead memory is asked for what is read in order: the processor's own guesses end with each page.
constexpr size_t kAhead = 32;

// The blurred values, in one of the two tables; both have a row more than there are vertices.
template <class V, int C>
V* blur(const Lattice& lattice, V* values, V* spare, int count) {
    const int width = C ? C : count;
    const size_t vertices = lattice.order.size();
    const auto row = [=](V* table, int32_t number) { return table + static_cast<size_t>(number) * width; };
    for (size_t v = 0; v < vertices; ++v) {
        const V* from = row(values, lattice.order[v]);
        for (int c = 0; c < width; ++c) spare[v * width + c] = from[c];
    }
    for (int c = 0; c < width; ++c) spare[vertices * width + c] = values[vertices * width + c] = V{};
    const Neighbours* at = lattice.neighbours->data();
    for (int axis = 0; axis <= lattice.dimensions; ++axis, at += vertices) {
        std::swap(values, spare);
        const auto pass = [&](auto place) {
            for (size_t v = 0; v < vertices; ++v) {
                __builtin_prefetch(at + v + 4 * kAhead);
                __builtin_prefetch(values + (v + kAhead) * width);
                const V* here = values + v * width;
                const V *next = row(values, at[v].next), *previous = row(values, at[v].previous);
                V* to = place(v);
                for (int c = 0; c < width; ++c) to[c] = here[c] + 0.5f * (previous[c] + next[c]);
            }
        };
        if (axis < lattice.dimensions) pass([&](size_t v) { return spare + v * width; });
        else pass([&](size_t v) { return row(spare, lattice.order[v]); });
    }
    return spare;
}

template <class V>
inline V* row_of(V* table, const Corner& corner, int width) {
    const size_t half = sizeof(V) / 2 * static_cast<size_t>(width);
    return reinterpret_cast<V*>(reinterpret_cast<uintptr_t>(table) + corner.twice * half);
}

template <class V, int C>
inline void gather(const Corner* corner, int corners, const V* values, int width, float factor, V* sum) {
    V own[Row<V, C>::kStored];
    const V* value = row_of(values, corner[0], width);
    for (int c = 0; c < width; ++c) own[c] = value[c] * corner[0].weight;
    for (int j = 1; j < corners; ++j) {
        value = row_of(values, corner[j], width);
        for (int c = 0; c < width; ++c) own[c] += value[c] * corner[j].weight;
    }
    for (int c = 0; c < width; ++c) sum[c] += own[c] * factor;
}

template <class V, int C>
inline void scatter(const Corner* corner, int corners, V* values, int width, const V* row) {
    for (int j = 0; j < corners; ++j) {
        V* value = row_of(values, corner[j], width);
        for (int c = 0; c < width; ++c) value[c] += row[c] * corner[j].weight;
    }
}

// (K 1)^(-1/2) goes into the weights of every point.
void normalise(Lattice& lattice) {
    const int corners = lattice.dimensions + 1;
    Corner* const first = lattice.corners.data();
    Corner* const end = first + lattice.points * static_cast<size_t>(corners);
    std::vector<float> table(static_cast<size_t>(lattice.vertices) + 1, 0.0f), spare(table.size());
    const float one = 1.0f;
    for (const Corner* corner = first; corner < end; corner += corners)
        scatter<float, 1>(corner, corners, table.data(), 1, &one);
    const float* values = blur<float, 1>(lattice, table.data(), spare.data(), 1);
    for (Corner* corner = first; corner < end; corner += corners) {
        float sum = 0.0f;
        gather<float, 1>(corner, corners, values, 1, lattice.slice_factor(), &sum);
        const float norm = 1.0f / std::sqrt(sum + 1e-20f);
        for (int j = 0; j < corners; ++j) corner[j].weight *= norm;
    }
}

}  // namespace
