// Memory for outputs that stays mapped between calls (docs/decisions/0008-large-outputs.md). A tensor gets it through
// DLPack, whose deleter gives the block back when the last tensor that shares its storage is gone.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "batchnorm.h"

#define BN_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

// Version 0 of DLPack's ABI, which every torch reads (github.com/dmlc/dlpack, include/dlpack/dlpack.h).
struct ManagedTensor {
  void *data;
  int32_t device_type, device_id;
  int32_t dims;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
  void *manager;
  void (*deleter)(ManagedTensor *);
};
constexpr int32_t kCpu = 1;
constexpr uint8_t kFloat = 2, kBfloat = 4;

constexpr int32_t kMostDims = 8;
constexpr size_t kHugePage = size_t(1) << 21;
constexpr size_t kGrain = size_t(1) << 16;  // a whole huge page as grain would cost the last one of every block
constexpr uint64_t kStale = 1024;           // takes: several training steps of a deep network

struct Block {
  ManagedTensor tensor;  // first: the deleter casts back
  int64_t shape_and_strides[2 * kMostDims];
  size_t bytes;
  uint64_t idle_since;
  Block *newer, *older;  // among the idle
};

// Never destroyed: tensors may outlive everything else in the process.
struct {
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  Block *newest, *oldest;
  size_t idle_bytes, mapped_bytes, keep_bytes;
  uint64_t takes;
  bn_capsules capsules;
} pool;

void lock() { pthread_mutex_lock(&pool.lock); }
void unlock() { pthread_mutex_unlock(&pool.lock); }

void leave_idle(Block *block) {
  (block->newer ? block->newer->older : pool.newest) = block->older;
  (block->older ? block->older->newer : pool.oldest) = block->newer;
  pool.idle_bytes -= block->bytes;
}

void enter_idle(Block *block) {
  block->idle_since = pool.takes;
  block->newer = nullptr;
  block->older = pool.newest;
  (pool.newest ? pool.newest->newer : pool.oldest) = block;
  pool.newest = block;
  pool.idle_bytes += block->bytes;
}

// Takes the oldest blocks off the list, chained by `older`: unmapping is slow, and needs no lock.
Block *surplus(size_t keep_bytes, uint64_t stale) {
  Block *chain = nullptr;
  while (pool.oldest && (pool.idle_bytes > keep_bytes || pool.takes - pool.oldest->idle_since > stale)) {
    Block *block = pool.oldest;
    leave_idle(block);
    pool.mapped_bytes -= block->bytes;
    block->older = chain;
    chain = block;
  }
  return chain;
}

void unmap(Block *chain) {
  while (chain) {
    Block *next = chain->older;
    munmap(chain->tensor.data, chain->bytes);
    free(chain);
    chain = next;
  }
}

void give_back(ManagedTensor *tensor) {
  lock();
  enter_idle((Block *)tensor);
  Block *chain = surplus(pool.keep_bytes, kStale);
  unlock();
  unmap(chain);
}

// The smallest idle block that is not wastefully large; among equals the one used last, which caches may still hold.
Block *reuse(size_t bytes) {
  Block *best = nullptr;
  for (Block *block = pool.newest; block && !(best && best->bytes == bytes); block = block->older)
    if (block->bytes >= bytes && block->bytes <= bytes + bytes / 4 && (!best || block->bytes < best->bytes)) best = block;
  if (best) leave_idle(best);
  return best;
}

Block *map(size_t bytes) {
  Block *block = (Block *)malloc(sizeof(Block));
  if (!block) return nullptr;
  const size_t align = bytes < kHugePage ? 0 : kHugePage;
  char *raw = (char *)mmap(nullptr, bytes + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) {
    free(block);
    return nullptr;
  }
  char *data = raw;
  if (align) {
    data = (char *)((uintptr_t(raw) + align - 1) / align * align);
    if (data > raw) munmap(raw, data - raw);
    if (raw + align > data) munmap(data + bytes, raw + align - data);
#ifdef MADV_HUGEPAGE
    madvise(data, bytes, MADV_HUGEPAGE);
#endif
  }
  block->tensor.data = data;
  block->bytes = bytes;
  return block;
}

Block *take(size_t bytes) {
  bytes = (bytes + kGrain - 1) / kGrain * kGrain;
  lock();
  ++pool.takes;
  Block *block = reuse(bytes);
  Block *chain = surplus(pool.keep_bytes, kStale);
  unlock();
  unmap(chain);
  if (block) return block;
  block = map(bytes);
  if (block) {
    lock();
    pool.mapped_bytes += bytes;
    unlock();
  }
  return block;
}

void describe(Block *block, const int64_t *shape_and_strides, int32_t dims, int32_t value_type) {
  static const uint8_t bits[] = {32, 64, 16, 16};
  memcpy(block->shape_and_strides, shape_and_strides, sizeof(int64_t) * 2 * dims);
  ManagedTensor &tensor = block->tensor;
  tensor.device_type = kCpu;
  tensor.device_id = 0;
  tensor.dims = dims;
  tensor.code = value_type == BN_BFLOAT16 ? kBfloat : kFloat;
  tensor.bits = bits[value_type];
  tensor.lanes = 1;
  tensor.shape = block->shape_and_strides;
  tensor.strides = block->shape_and_strides + dims;
  tensor.byte_offset = 0;
  tensor.manager = block;
  tensor.deleter = give_back;
}

const char kUnused[] = "dltensor";

// Runs for every capsule; whoever made a tensor of it has renamed it.
void drop_capsule(void *capsule) {
  if (pool.capsules.is_valid(capsule, kUnused)) give_back((ManagedTensor *)pool.capsules.get_pointer(capsule, kUnused));
}

}  // namespace

BN_EXPORT int bn_keep(const bn_capsules *capsules, int64_t keep_bytes) {
  lock();
  const bool first = !pool.capsules.create;
  pool.capsules = *capsules;
  pool.keep_bytes = size_t(keep_bytes);
  unlock();
  return first ? pthread_atfork(lock, unlock, unlock) : 0;
}

BN_EXPORT void *bn_empty(const int64_t *shape_and_strides, int32_t dims, int32_t value_type, int64_t bytes) {
  Block *block = dims <= kMostDims ? take(size_t(bytes)) : nullptr;
  if (!block) return pool.capsules.no_memory();
  describe(block, shape_and_strides, dims, value_type);
  void *capsule = pool.capsules.create(block, kUnused, drop_capsule);
  if (!capsule) give_back(&block->tensor);
  return capsule;
}

BN_EXPORT int64_t bn_trim(int64_t keep_bytes) {
  lock();
  Block *chain = surplus(size_t(keep_bytes), UINT64_MAX);
  const int64_t idle = int64_t(pool.idle_bytes);
  unlock();
  unmap(chain);
  return idle;
}

BN_EXPORT int64_t bn_mapped_bytes(void) {
  lock();
  const int64_t bytes = int64_t(pool.mapped_bytes);
  unlock();
  return bytes;
}
