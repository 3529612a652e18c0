// Loops over the values of one channel, two vectors of bfloat16 at a time.
//
// To widen and to narrow one vector takes as long as float's doubled traffic. Of a register full of bfloat16 the even
// values are one shift away from float, the odd ones one mask, and two results go back in one store. Which lane a value
// comes to lie in is another order of the sums, and no other number.
#ifndef BATCHNORM_PAIRS_H
#define BATCHNORM_PAIRS_H

#include "simd.h"

namespace BN_ISA {

// A loop calls its body with Pair where two vectors are done at once; the body asks for both with Even and Odd.
struct Pair {};
struct Even {};
struct Odd {};
template <class Lanes> constexpr bool kSecondOfPair = false;
template <> constexpr bool kSecondOfPair<Odd> = true;

template <class T> constexpr bool kPaired = false;
template <> constexpr bool kPaired<bfloat16> = true;

BN_INLINE vuint32 load_pair(const bfloat16 *from) {
  vuint32 raw;
  __builtin_memcpy(&raw, from, sizeof raw);
  return raw;
}
BN_INLINE vfloat load(const bfloat16 *from, Even, vfloat) { return (vfloat)(load_pair(from) << 16); }
BN_INLINE vfloat load(const bfloat16 *from, Odd, vfloat) { return (vfloat)(load_pair(from) & 0xffff0000u); }

// In the mask a pair is the bytes of 16-bit lanes.
BN_INLINE vuint16 valid_pair(const uint8_t *from) {
  vuint16 raw;
  __builtin_memcpy(&raw, from, sizeof raw);
  return raw;
}
template <class S> BN_INLINE Mask<S> valid(const uint8_t *from, Even) { return (vint32)widened(valid_pair(from) & 0xffu) != 0; }
template <class S> BN_INLINE Mask<S> valid(const uint8_t *from, Odd) { return (vint32)widened(valid_pair(from) >> 8) != 0; }

// Call body(k, lanes) for each vector of what the loop gave: k counts them.
template <class Lanes, class Body> BN_INLINE void for_parts(Lanes lanes, Body body) { body(0, lanes); }
template <class Body> BN_INLINE void for_parts(Pair, Body body) {
  body(0, Even{});
  body(1, Odd{});
}

template <class T, class V, class Lanes> BN_INLINE void store_parts(T *to, const V (&v)[2], Lanes lanes, bool past) {
  store(to, v[0], lanes, past);
}
BN_INLINE void store_parts(bfloat16 *to, const vfloat (&v)[2], Pair, bool past) {
  const vuint32 both = (rounded_to_bfloat16(v[0]) >> 16) | (rounded_to_bfloat16(v[1]) & 0xffff0000u);
  if (past && uintptr_t(to) % BN_VECTOR_BYTES == 0) return stream_aligned(to, &both, BN_VECTOR_BYTES);
  __builtin_memcpy(to, &both, sizeof both);
}

// Numbers that a loop keeps for a later one over the same vectors, in the type they were computed in: of a pair first all
// the even ones.
template <class S, class Lanes> BN_INLINE void keep(S *to, Vector<S> v, Lanes) {
  store(to + (kSecondOfPair<Lanes> ? kLanes<S> : 0), v);
}
template <class S> BN_INLINE void keep(S *to, Vector<S> v, Tail tail) { store(to, v, tail.lanes); }
template <class S, class Lanes> BN_INLINE Vector<S> kept(const S *from, Lanes) {
  return load(from + (kSecondOfPair<Lanes> ? kLanes<S> : 0));
}
template <class S> BN_INLINE Vector<S> kept(const S *from, Tail tail) { return load(from, tail.lanes, Vector<S>{}); }

// for_vectors, in pairs where the type has them: the vectors of sum_runs.
template <class T, class Body> BN_INLINE void for_pairs(int64_t n, Body body) {
  using S = Compute<T>;
  constexpr int64_t W = 2 * kLanes<S>;
  int64_t i = 0;
  if constexpr (kPaired<T>)
    for (; i + W <= n; i += W) body(i, Pair{});
  for_vectors<S>(n - i, [&](int64_t j, auto lanes) __attribute__((always_inline)) { body(i + j, lanes); });
}

// for_vectors_twice, in pairs where the type has them.
template <class T, class Body> BN_INLINE void for_pairs_twice(int64_t n, Body body) {
  using S = Compute<T>;
  constexpr int64_t W = 2 * kLanes<S>;
  if constexpr (kPaired<T>) {
    if (n >= W) {
      for (int64_t i = 0; i < n; i += W) body(i + W > n ? n - W : i, Pair{});
      return;
    }
  }
  for_vectors_twice<S>(n, body);
}

}  // namespace BN_ISA
#endif
