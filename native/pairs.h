// Loops over the values of one channel, several vectors at a time; two of bfloat16 out of one register.
//
// To widen and to narrow one vector takes as long as float's doubled traffic. Of a register full of bfloat16 the even
// values are one shift away from float, the odd ones one mask, and two results go back in one store. Which lane a value
// comes to lie in is another order of the sums, and no other number.
#ifndef BATCHNORM_PAIRS_H
#define BATCHNORM_PAIRS_H

#include <utility>

#include "several.h"
#include "simd.h"

namespace BN_ISA {

// A loop calls its body with Pair for a register full of bfloat16: Two vectors, of the even and of the odd values.
struct Pair {};
template <class T> constexpr int64_t kValues<T, Pair> = 2 * kLanes<Compute<T>>;

// What a loop's body has of vectors V: one, or a pair.
template <class V, class Lanes> struct SeveralOf { using type = V; };
template <class V> struct SeveralOf<V, Pair> { using type = Two<V>; };
template <class V, class Lanes> using Several = typename SeveralOf<V, Lanes>::type;

// How a type comes in twos, and in fours.
template <class T> struct TwosOf { using type = Twice<Whole>; };
template <> struct TwosOf<bfloat16> { using type = Pair; };
template <class T> using Twos = typename TwosOf<T>::type;
template <class T> using Fours = Twice<Twos<T>>;

template <class T> constexpr bool kPaired = false;
template <> constexpr bool kPaired<bfloat16> = true;

BN_INLINE Two<vfloat> load(const bfloat16 *from, Pair, vfloat) {
  vuint32 raw;
  __builtin_memcpy(&raw, from, sizeof raw);
  return {(vfloat)(raw << 16), (vfloat)(raw & 0xffff0000u)};
}
BN_INLINE void store(bfloat16 *to, Two<vfloat> v, Pair, bool past) {
  const vuint32 both = (rounded_to_bfloat16(v.first) >> 16) | (rounded_to_bfloat16(v.second) & 0xffff0000u);
  if (past && uintptr_t(to) % BN_VECTOR_BYTES == 0) return stream_aligned(to, &both, BN_VECTOR_BYTES);
  __builtin_memcpy(to, &both, sizeof both);
}
// Numbers that lie side by side as the vectors of a pair, and back.
template <class V, int... kLane> BN_INLINE Two<V> unwoven(V left, V right, std::integer_sequence<int, kLane...>) {
  return {__builtin_shufflevector(left, right, 2 * kLane...), __builtin_shufflevector(left, right, (2 * kLane + 1)...)};
}
template <class V, int... kLane> BN_INLINE Two<V> woven(Two<V> pair, std::integer_sequence<int, kLane...>) {
  constexpr int W = sizeof...(kLane);
  return {__builtin_shufflevector(pair.first, pair.second, (kLane / 2 + kLane % 2 * W)...),
          __builtin_shufflevector(pair.first, pair.second, (W / 2 + kLane / 2 + kLane % 2 * W)...)};
}

// In the mask a pair is the bytes of 16-bit lanes.
template <class S> BN_INLINE Two<Mask<S>> valid(const uint8_t *from, Pair) {
  vuint16 raw;
  __builtin_memcpy(&raw, from, sizeof raw);
  return {(vint32)widened(raw & 0xffu) != 0, (vint32)widened(raw >> 8) != 0};
}

template <class T, class V, class First> BN_INLINE auto load(const T *from, Twice<First>, V fill) {
  auto first = load(from, First{}, fill), second = load(from + kValues<T, First>, First{}, fill);
  return Two<decltype(first)>{first, second};
}
template <class T, class V, class First> BN_INLINE void store(T *to, Two<V> v, Twice<First>, bool past) {
  store(to, v.first, First{}, past);
  store(to + kValues<T, First>, v.second, First{}, past);
}
template <class S, class First> BN_INLINE auto valid(const uint8_t *from, Twice<First>) {
  auto first = valid<S>(from, First{}), second = valid<S>(from + kValues<S, First>, First{});
  return Two<decltype(first)>{first, second};
}

// Numbers that a loop keeps for a later one over the same pairs, in the type they were computed in: of a pair first all
// the even ones.
template <class V> constexpr int64_t kVectors = 1;
template <class V> constexpr int64_t kVectors<Two<V>> = 2 * kVectors<V>;
template <class S> BN_INLINE void keep(S *to, Vector<S> v, Tail tail) { store(to, v, tail.lanes); }
template <class S, class Lanes> BN_INLINE void keep(S *to, Vector<S> v, Lanes) { store(to, v); }
template <class S, class V, class Lanes> BN_INLINE void keep(S *to, Two<V> v, Lanes lanes) {
  keep(to, v.first, lanes);
  keep(to + kVectors<V> * kLanes<S>, v.second, lanes);
}
template <class S, class Lanes> BN_INLINE auto kept(const S *from, Lanes lanes) { return load(from, lanes, Vector<S>{}); }
template <class S> BN_INLINE auto kept(const S *from, Pair) { return load(from, Twice<Whole>{}, Vector<S>{}); }

// for_vectors, in pairs where the type has them: the vectors of sum_runs.
template <class T, class Body> BN_INLINE void for_pairs(int64_t n, Body body) {
  using S = Compute<T>;
  constexpr int64_t W = kValues<T, Pair>;
  int64_t i = 0;
  if constexpr (kPaired<T>)
    for (; i + W <= n; i += W) body(i, Pair{});
  for_vectors<S>(n - i, [&](int64_t j, auto lanes) __attribute__((always_inline)) { body(i + j, lanes); });
}

// The same, with so many vectors at once, for a body that may run twice on a value: what is left is done with the values
// before it as a whole vector, since storing part of one is slow. So nothing may be stored where a body reads.
template <class T, int kAtOnce, class Body> BN_INLINE void for_values_twice(int64_t n, Body body) {
  int64_t i = 0;
  auto take = [&](auto lanes) __attribute__((always_inline)) {
    constexpr int64_t size = kValues<T, decltype(lanes)>;
    if (n < size) return;
    for (; n - i > size / 2; i += size) body(i + size > n ? n - size : i, lanes);
  };
  if constexpr (kAtOnce >= 4) take(Fours<T>{});
  if constexpr (kAtOnce >= 2 || kPaired<T>) take(Twos<T>{});
  constexpr int64_t W = kValues<T, Whole>;
  if (n < W && n > 0) return body(0, Tail{int(n)});
  for (; i < n; i += W) body(i + W > n ? n - W : i, Whole{});
}

}  // namespace BN_ISA
#endif
