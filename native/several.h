// Several vectors that go through each step of a calculation together.
//
// exp and what is made of it are chains of some 20 instructions, each of which waits for the one before. A processor works
// on later chains meanwhile only as far as it looks ahead, which is one or two of them where they stand one behind the
// other in the program. So they stand side by side: of Two numbers each operation is done on the first and then on the
// second, and four vectors are Two of Two. Functions over them read as those over one vector do, and give the same bits.
#ifndef BATCHNORM_SEVERAL_H
#define BATCHNORM_SEVERAL_H

#include "simd.h"

namespace BN_ISA {

template <int n> struct Count { static constexpr int value = n; };

template <class V> struct Two { V first, second; };

template <class V> constexpr bool kTwo = false;
template <class V> constexpr bool kTwo<Two<V>> = true;

template <bool> struct Require {};
template <> struct Require<true> { using type = void; };
template <class... A> using AnyTwo = typename Require<(kTwo<A> || ...)>::type;

template <class V> struct ElementOf;
template <> struct ElementOf<vfloat> { using type = float; };
template <> struct ElementOf<vdouble> { using type = double; };
template <class V> struct ElementOf<Two<V>> : ElementOf<V> {};
template <class V> using Element = typename ElementOf<V>::type;

// What is not Two counts for both.
template <class V> BN_INLINE V first_of(V v) { return v; }
template <class V> BN_INLINE V first_of(Two<V> v) { return v.first; }
template <class V> BN_INLINE V second_of(V v) { return v; }
template <class V> BN_INLINE V second_of(Two<V> v) { return v.second; }

// function(a...) for each vector of the arguments.
template <class F, class... A> BN_INLINE auto each(F function, A... a) {
  if constexpr ((kTwo<A> || ...)) {
    auto first = each(function, first_of(a)...);
    auto second = each(function, second_of(a)...);
    return Two<decltype(first)>{first, second};
  } else {
    return function(a...);
  }
}

#define BN_EACH(operation)                                                                                    \
  template <class A, class B, class = AnyTwo<A, B>> BN_INLINE auto operator operation(A a, B b) {             \
    return each([](auto x, auto y) __attribute__((always_inline)) { return x operation y; }, a, b);           \
  }
BN_EACH(+)
BN_EACH(-)
BN_EACH(*)
BN_EACH(/)
BN_EACH(<)
BN_EACH(<=)
BN_EACH(>)
BN_EACH(>=)
#undef BN_EACH
template <class V> BN_INLINE Two<V> operator-(Two<V> v) { return {-v.first, -v.second}; }
template <class V, class B> BN_INLINE void operator+=(Two<V> &to, B b) { to = to + b; }

#define BN_EACH(function)                                                                                    \
  template <class... A, class = AnyTwo<A...>> BN_INLINE auto function(A... a) {                              \
    return each([](auto... x) __attribute__((always_inline)) { return BN_ISA::function(x...); }, a...);      \
  }
BN_EACH(fma)
BN_EACH(select)
BN_EACH(at_least)
BN_EACH(at_most)
#undef BN_EACH
template <class V> BN_INLINE Two<V> loaded(Two<V> v) { return {loaded(v.first), loaded(v.second)}; }

// What a loop gives its body where it asks for the vectors of First and for as many behind them.
template <class First> struct Twice {};

// Values that a body is given at once.
template <class T, class Lanes> constexpr int64_t kValues = kLanes<Compute<T>>;
template <class T, class First> constexpr int64_t kValues<T, Twice<First>> = 2 * kValues<T, First>;

}  // namespace BN_ISA
#endif
