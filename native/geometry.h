// How a tensor (outer, channels, inner) is divided among threads, and memory for a call's own numbers.
#ifndef BATCHNORM_GEOMETRY_H
#define BATCHNORM_GEOMETRY_H

#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "batchnorm.h"
#include "simd.h"

namespace BN_ISA {

BN_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
BN_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// The share of one thread: a block of channels, of outer and of inner positions.
struct Part {
  int64_t channel_begin, channel_end, outer_begin, outer_end, inner_begin, inner_end;
  int64_t positions() const { return (outer_end - outer_begin) * (inner_end - inner_begin); }
};

constexpr int64_t kValuesPerThread = 16384;  // fewer do not pay for waking one

static inline int useful_threads(const bn_call &call) {
  int64_t values = call.outer * call.channels * call.inner;
  return int(most(1, least(call.threads, values / kValuesPerThread)));
}

static inline int64_t level2_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return 1 << 20;
}

// What processors have near their cores; the C library reports the sum over a socket's slices (384 MB where one core
// reaches 32).
constexpr int64_t kLevel3Bytes = 32 << 20;

constexpr int64_t kLineBytes = 64;

static inline int64_t bytes_of(const bn_call &call, int64_t value_bytes, int tensors) {
  return call.outer * call.channels * call.inner * value_bytes * tensors;
}

// Whether the lines that a call writes may lie so far from its core that it should ask for them ahead, as for what it reads.
static inline bool far_away(const bn_call &call, int64_t value_bytes, int tensors) {
  return bytes_of(call, value_bytes, tensors) > kLevel3Bytes / 4;
}

// Whether a call's tensors are too large to find its outputs in a cache later: then writing past the caches saves reading
// the lines first, a third of the traffic (docs/decisions/0008-large-outputs.md). Of lines that two runs or rows share a part
// would go past and a part would not, which takes twice as long as writing all of them the ordinary way.
static inline bool past_caches(const bn_call &call, int64_t value_bytes, int tensors) {
  const int64_t run_bytes = (call.inner == 1 ? call.channels : call.inner) * value_bytes;
  return run_bytes % kLineBytes == 0 && bytes_of(call, value_bytes, tensors) > kLevel3Bytes;
}

// Run body(thread, threads) on a team. The runtime may give fewer threads than asked for.
template <class Body> static void on_team(int threads, const Body &body) {
  if (threads <= 1) {
    body(0, 1);
    return;
  }
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num(), omp_get_num_threads());
}

BN_INLINE void wait_for_team(int threads) {
  if (threads > 1) {
#pragma omp barrier
  }
}

// The numbers of so few channels each thread works out for itself: to wait for the others takes longer.
constexpr int64_t kFewChannels = 128;

BN_INLINE int64_t share(int64_t n, int index, int parts) { return n * index / parts; }

// Where (N, C, *spatial) is cut. Only whole channels need no merging of moments.
enum class Split { channels, outer, inner };

BN_INLINE bool evenly(int64_t n, int parts) { return n % parts == 0 || n >= 4 * parts; }

static inline Split planes_split(const bn_call &call, int threads) {
  if (evenly(call.channels, threads)) return Split::channels;
  return evenly(call.outer, threads) ? Split::outer : Split::inner;
}

static inline Part planes_part(const bn_call &call, Split split, int thread, int threads) {
  Part part = {0, call.channels, 0, call.outer, 0, call.inner};
  constexpr int64_t kUnit = 64;  // values: no two threads write to one line of memory
  switch (split) {
    case Split::channels:
      part.channel_begin = share(call.channels, thread, threads);
      part.channel_end = share(call.channels, thread + 1, threads);
      break;
    case Split::outer:
      part.outer_begin = share(call.outer, thread, threads);
      part.outer_end = share(call.outer, thread + 1, threads);
      break;
    case Split::inner: {
      int64_t units = (call.inner + kUnit - 1) / kUnit;
      part.inner_begin = least(call.inner, share(units, thread, threads) * kUnit);
      part.inner_end = least(call.inner, share(units, thread + 1, threads) * kUnit);
    }
  }
  return part;
}

// How (rows, C) is cut: by blocks of columns where a block of all rows fits into the cache and is read twice, else by rows. Few channels
// are folded: `fold` rows next to each other are one row with `fold` times the channels, which fills vectors.
struct RowsPlan {
  bool by_columns;
  int64_t block;           // columns worked on together
  int64_t fold, width;     // width = fold * channels
  int64_t rows, leftover;  // whole folded rows, and channels * rows that do not fill one
  bool along;              // rows are long, and come from far away
};

constexpr int64_t kBytesInOneCorner = 2048, kLongRow = 2048;

static inline RowsPlan rows_plan(const bn_call &call, int64_t value_bytes, int lanes, int tensors, bool reads_twice,
                                 int threads) {
  RowsPlan plan = {false, call.channels, 1, call.channels, call.outer, 0, false};
  const int64_t row_bytes = call.channels * value_bytes, narrowest = 2 * lanes;
  const int64_t most_columns = level2_bytes() / 2 / most(1, call.outer * value_bytes * tensors) / narrowest * narrowest;
  // Of rows that lie some powers of two apart a column would find room in one corner of the caches only; and where rows do
  // not begin with lines of memory, threads would write to the same ones.
  const bool apart = row_bytes % kBytesInOneCorner != 0 && row_bytes % kLineBytes == 0;
  if (reads_twice && apart && most_columns >= narrowest && call.channels >= narrowest * threads) {
    plan.by_columns = true;
    const int64_t of_thread = (call.channels + threads - 1) / threads;
    const int64_t blocks = (of_thread + most_columns - 1) / most_columns;
    plan.block = ((of_thread + blocks - 1) / blocks + narrowest - 1) / narrowest * narrowest;
    return plan;
  }
  plan.along = row_bytes >= kLongRow && far_away(call, value_bytes, tensors);
  const int64_t filled = 4 * lanes;
  if (!call.mask && call.channels < 2 * filled && call.channels % filled != 0) {
    int64_t fold = 1;
    while (fold * call.channels % lanes != 0) ++fold;
    while (fold * call.channels < filled) fold *= 2;
    if (call.outer >= 8 * fold * threads) {
      plan.fold = fold;
      plan.block = plan.width = fold * call.channels;
      plan.rows = call.outer / fold;
      plan.leftover = call.outer % fold * call.channels;
    }
  }
  return plan;
}

// Aligned pieces of memory, handed out in order.
class Pieces {
 public:
  explicit Pieces(char *memory) : next_(memory) {}
  template <class T> T *take(int64_t count) {
    T *piece = (T *)next_;
    next_ += rounded(count * int64_t(sizeof(T)));
    return piece;
  }
  static constexpr int64_t kAlign = 64;
  static constexpr int64_t rounded(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }
  template <class T> static constexpr int64_t bytes(int64_t count) { return rounded(count * int64_t(sizeof(T))); }

 private:
  char *next_;
};

// Memory of one call; not zeroed.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : memory_((char *)aligned_alloc(Pieces::kAlign, size_t(Pieces::rounded(bytes + 1)))) {}
  ~Scratch() { free(memory_); }
  Scratch(const Scratch &) = delete;
  Scratch &operator=(const Scratch &) = delete;
  char *memory() const { return memory_; }

 private:
  char *memory_;
};

}  // namespace BN_ISA
#endif
