// How a lattice is made: each point's simplex, the numbers of its vertices, and which of them are neighbours.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "lattice.h"
#include "vectors.h"

namespace {

// An open-addressing table from keys to consecutive numbers; at most a quarter of it is taken.
class Numbers {
  public:
    explicit Numbers(size_t most) : most_(most) { resize(15); }

    int32_t insert(uint64_t key) {
        size_t place = find_place(key);
        if (slots_[place] < 0) {
            if (keys_.size() >= most_) throw std::bad_alloc();
            if (4 * keys_.size() >= slots_.size()) {
                resize(bits_ + 1);
                place = find_place(key);
            }
            slots_[place] = static_cast<int32_t>(keys_.size());
            keys_.push_back(key);
        }
        return slots_[place];
    }
    const std::vector<uint64_t>& keys() const { return keys_; }

  private:
    size_t find_place(uint64_t key) const {
        size_t place = (key * 0x9E3779B97F4A7C15u) >> (64 - bits_);
        while (slots_[place] >= 0 && keys_[static_cast<size_t>(slots_[place])] != key)
            place = (place + 1) & (slots_.size() - 1);
        return place;
    }
    void resize(int bits) {
        bits_ = bits;
        slots_.assign(size_t{1} << bits, -1);
        for (size_t i = 0; i < keys_.size(); ++i) slots_[find_place(keys_[i])] = static_cast<int32_t>(i);
    }
    size_t most_;
    int bits_ = 0;
    std::vector<int32_t> slots_;
    std::vector<uint64_t> keys_;
};

// The simplices of eight points: quotients of the remainder-0 vertex by D + 1, ranks, barycentric weights.
template <int D>
struct Simplices {
    Ints<8> quotient[D + 1], rank[D + 1];
    Floats<8> weight[D + 1];
};

template <int D>
void embed(const Floats<8>* feature, const float* scale, Simplices<D>& out) {
    constexpr float corners = D + 1, inverse = 1.0f / (D + 1);
    Floats<8> elevated[D + 1], rest[D + 1], rounded[D + 1], partial = {}, sum = {};
    for (int axis = D; axis > 0; --axis) {
        const Floats<8> scaled = feature[axis - 1] * scale[axis - 1];
        elevated[axis] = partial - scaled * static_cast<float>(axis);
        partial = partial + scaled;
    }
    elevated[0] = partial;
    for (int i = 0; i <= D; ++i) {
        rounded[i] = (elevated[i] * inverse + kToInteger) - kToInteger;
        rest[i] = elevated[i] - rounded[i] * corners;
        sum += rounded[i];
    }
    const Ints<8> excess = __builtin_convertvector(sum, Ints<8>);
    for (int i = 0; i <= D; ++i) out.rank[i] = excess;
    for (int i = 0; i < D; ++i)
        for (int j = i + 1; j <= D; ++j) {
            const Ints<8> below = rest[i] < rest[j];  // -1 where true
            out.rank[i] -= below;
            out.rank[j] += 1 + below;
        }
    for (int i = 0; i <= D; ++i) {
        const Ints<8> wrap = (out.rank[i] > D) - (out.rank[i] < 0);  // +1 below the range, -1 above it
        out.rank[i] += wrap * (D + 1);
        rounded[i] += __builtin_convertvector(wrap, Floats<8>);
        out.quotient[i] = __builtin_convertvector(rounded[i], Ints<8>);
        rest[i] = (elevated[i] - rounded[i] * corners) * inverse;
    }
    Ints<8> by_rank[D + 1];  // bits of rest[i] at D - rank[i]
    for (int p = 0; p <= D; ++p) {
        by_rank[p] = Ints<8>{};
        for (int i = 0; i <= D; ++i) by_rank[p] |= bits<Ints<8>>(rest[i]) & (out.rank[i] == D - p);
    }
    const auto value = [&](int p) { return bits<Floats<8>>(by_rank[p]); };
    for (int p = 1; p <= D; ++p) out.weight[p] = value(p) - value(p - 1);
    out.weight[0] = value(0) + (1.0f - value(D));
}

// Keys of lattice points: the quotients in mixed radix above the remainder. The extents bound the coordinates.
template <int D>
struct Keys {
    int64_t stride[D + 1];  // of the last axis: 0, its coordinate follows from the others
    int64_t origin;         // the key of the point 0
    int64_t all;            // what one more in every quotient adds

    // False if the points spread too far for the keys.
    bool fit(const float* extent, const float* scale) {
        double above[D + 1], places = D + 1;
        above[D] = 0;
        for (int axis = D - 1; axis >= 0; --axis) above[axis] = above[axis + 1] + double{extent[axis]} * scale[axis];
        if (!(above[0] < 32760) || !(D * double{extent[D - 1]} * scale[D - 1] < 32760)) return false;
        int64_t low_sum = 0;
        all = 0;
        for (int axis = 0; axis < D; ++axis) {
            const double below = axis ? axis * double{extent[axis - 1]} * scale[axis - 1] : 0.0;
            const int64_t low = -static_cast<int64_t>(below / (D + 1)) - 4;
            const int64_t radix = static_cast<int64_t>(above[axis] / (D + 1)) + 5 - low;
            stride[axis] = static_cast<int64_t>(places);
            places *= static_cast<double>(radix);
            if (places > 4e18) return false;
            low_sum += low * stride[axis];
            all += stride[axis];
        }
        stride[D] = 0;
        origin = -low_sum;
        return true;
    }
};

template <int D>
struct Known {  // a simplex seen before
    int64_t origin;
    int32_t ranks = -1;
    int32_t vertex[D + 1];
};

// The vertices of a simplex, made where they are new.
template <int D>
void insert(Numbers& numbers, const Keys<D>& keys, Known<D>& simplex) {
    int64_t stride_at[D + 1];  // of the axis at each rank
    for (int i = 0; i <= D; ++i) stride_at[(simplex.ranks >> (3 * i)) & 7] = keys.stride[i];
    int64_t key = simplex.origin;
    for (int remainder = 0; remainder <= D; ++remainder) {
        if (remainder) key += 1 - stride_at[D + 1 - remainder];
        simplex.vertex[remainder] = numbers.insert(static_cast<uint64_t>(key));
    }
}

struct Vertex {
    int64_t key;
    int32_t number;
    int32_t place;  // in the order of the keys
};

// Puts the vertices in the order of one digit of theirs; those with equal digits stay as they are.
template <class Digit>
void sort_by(size_t digits, Digit digit, std::vector<Vertex>& vertices, std::vector<Vertex>& spare) {
    std::vector<size_t> place(digits + 1);
    for (const Vertex& v : vertices) ++place[digit(v) + 1];
    for (size_t d = 1; d < digits; ++d) place[d] += place[d - 1];
    for (const Vertex& v : vertices) spare[place[digit(v)]++] = v;
    vertices.swap(spare);
}

// The vertices of each remainder after those of the one below, and these in the order of their keys.
template <int D>
std::vector<Vertex> sorted(const std::vector<uint64_t>& keys) {
    constexpr int kBits = 11;
    constexpr size_t kDigits = size_t{1} << kBits;
    std::vector<Vertex> vertices(keys.size()), spare(keys.size());
    uint64_t any = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
        vertices[i] = {static_cast<int64_t>(keys[i]), static_cast<int32_t>(i), 0};
        any |= keys[i];
    }
    for (int shift = 0; shift < 64 && any >> shift; shift += kBits)
        sort_by(kDigits, [=](const Vertex& v) { return (v.key >> shift) & (kDigits - 1); }, vertices, spare);
    for (size_t i = 0; i < vertices.size(); ++i) vertices[i].place = static_cast<int32_t>(i);
    sort_by(D + 1, [](const Vertex& v) { return static_cast<size_t>(v.key % (D + 1)); }, vertices, spare);
    return vertices;
}

// The neighbours along one axis. The next vertex has a remainder that is one less, and one more in the axis' quotient;
// below remainder 0 comes remainder d, with one less in every quotient. So the vertices of each remainder are merged
// with those of the remainder below; all these merges take turns, since a single one waits for each of its steps.
template <int D>
void find_neighbours(const std::vector<Vertex>& vertices, const Keys<D>& keys, int axis, Neighbours* neighbours) {
    const auto count = static_cast<int32_t>(vertices.size());
    std::fill_n(neighbours, vertices.size(), Neighbours{count, count});
    int32_t group[D + 2] = {};  // where each remainder begins
    for (int r = 1; r <= D + 1; ++r)
        group[r] = static_cast<int32_t>(
            std::partition_point(vertices.begin(), vertices.end(), [=](const Vertex& v) { return v.key % (D + 1) < r; }) -
            vertices.begin());
    int32_t own[D + 1], other[D + 1], own_end[D + 1], other_end[D + 1];
    int64_t step[D + 1];
    for (int r = 0; r <= D; ++r) {
        const int below = r ? r - 1 : D;
        own[r] = group[r], own_end[r] = group[r + 1];
        other[r] = group[below], other_end[r] = group[below + 1];
        step[r] = keys.stride[axis] + (r ? -1 : D - keys.all);
    }
    for (bool more = true; more;) {
        more = false;
        for (int r = 0; r <= D; ++r) {
            if (own[r] >= own_end[r] || other[r] >= other_end[r]) continue;
            const Vertex &v = vertices[static_cast<size_t>(own[r])], &w = vertices[static_cast<size_t>(other[r])];
            const int64_t wanted = v.key + step[r];
            const int32_t met = -static_cast<int32_t>(wanted == w.key);  // a mask: a branch would be guessed wrong often
            neighbours[v.place].next = count + ((w.place - count) & met);
            neighbours[w.place].previous = count + ((v.place - count) & met);
            own[r] += wanted <= w.key;
            other[r] += w.key <= wanted;
            more = true;
        }
    }
}

// The lattice of `points` points; feature(axis, point) is in units of sigma and lies in 0 .. extent[axis].
template <int D, class Feature>
std::unique_ptr<Lattice> build(size_t points, size_t most_vertices, const float* extent, Feature feature) {
    float scale[D];
    const float deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (D + 1));
    for (int i = 0; i < D; ++i) scale[i] = static_cast<float>(1.0 / std::sqrt((i + 2.0) * (i + 1.0)) * deviation);
    Keys<D> keys;
    if (points > INT32_MAX / (D + 1) || !keys.fit(extent, scale)) return nullptr;

    auto lattice = std::make_unique<Lattice>(D, points);
    Numbers numbers(most_vertices);
    std::vector<Known<D>> cache(4096);
    for (size_t start = 0; start < points; start += 8) {
        const size_t count = std::min<size_t>(8, points - start);
        Floats<8> features[D] = {};
        for (int axis = 0; axis < D; ++axis)
            for (size_t p = 0; p < count; ++p) features[axis][p] = feature(axis, start + p);
        Simplices<D> simplices;
        embed<D>(features, scale, simplices);
        Ints<8> packed = {};
        for (int i = 0; i <= D; ++i) packed |= simplices.rank[i] << (3 * i);
        for (size_t p = 0; p < count; ++p) {
            int64_t origin = keys.origin;
            for (int i = 0; i < D; ++i) origin += keys.stride[i] * simplices.quotient[i][p];
            const int32_t ranks = packed[p];
            const uint64_t mixed = static_cast<uint64_t>(origin) ^ (static_cast<uint64_t>(ranks) << 40);
            Known<D>& known = cache[(mixed * 0x9E3779B97F4A7C15u) >> 52];
            if (known.ranks != ranks || known.origin != origin) {
                known.ranks = ranks;
                known.origin = origin;
                insert(numbers, keys, known);
            }
            Corner* corner = lattice->corners.data() + (start + p) * (D + 1);
            for (int r = 0; r <= D; ++r) corner[r] = {2 * static_cast<uint32_t>(known.vertex[r]), simplices.weight[r][p]};
        }
    }
    const std::vector<Vertex> vertices = sorted<D>(numbers.keys());
    lattice->vertices = static_cast<int32_t>(vertices.size());
    lattice->order.resize(vertices.size());
    for (const Vertex& v : vertices) lattice->order[static_cast<size_t>(v.place)] = v.number;
    lattice->neighbours.emplace(vertices.size() * (D + 1));
    for (int axis = 0; axis <= D; ++axis)
        find_neighbours(vertices, keys, axis, lattice->neighbours->data() + vertices.size() * axis);
    normalise(*lattice);
    return lattice;
}

}  // namespace
