// How often each pair of values occurs in two label maps.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "vectors.h"

// Adds to histogram[256 * a + b] the number of places where the first map has a and the second b. Label maps are made of
// regions: eight places that are alike in both maps are counted at once.
EXPORT void wsss_pair_histogram(const uint8_t* first, const uint8_t* second, size_t count, int64_t* histogram) {
    const auto alike = [](uint64_t bytes) { return bytes == (bytes << 8 | bytes >> 56); };
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        uint64_t a, b;
        std::memcpy(&a, first + i, 8);
        std::memcpy(&b, second + i, 8);
        if (alike(a) && alike(b)) {
            histogram[(a & 255) << 8 | (b & 255)] += 8;
        } else {
            for (int j = 0; j < 8; ++j) ++histogram[first[i + j] << 8 | second[i + j]];
        }
    }
    for (; i < count; ++i) ++histogram[first[i] << 8 | second[i]];
}
