// The counter-based generator of the random starts and the content hash that keys it.
#pragma once

#include <cstdint>

#include "scalar_math.h"

namespace hcnn_fast {

// The splitmix64 finaliser (Steele, Lea, Flood 2014).
HCNN_FAST_HD uint64_t mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9ull;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBull;
  return bits ^ (bits >> 31);
}

// One element's share of its image's hash; the shares are summed modulo 2^64.
HCNN_FAST_HD uint64_t hash_share(uint64_t value_bits, uint64_t element) {
  return mix(value_bits + mix(element + 1));
}

HCNN_FAST_HD uint64_t start_key(uint64_t image_hash, uint64_t seed) {
  return mix(image_hash ^ mix(seed));
}

struct PhiloxWords {
  uint32_t word[4];
};

// Philox4x32-10 (Salmon et al. 2011).
HCNN_FAST_HD PhiloxWords philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key);
  uint32_t k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t second = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(second);
    c2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(first);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// The upper 24 bits of a word as a number in [0, 1).
template <typename T>
HCNN_FAST_HD T uniform(uint32_t word) {
  return static_cast<T>(static_cast<float>(word >> 8) * 5.9604644775390625e-8f);
}

}  // namespace hcnn_fast
