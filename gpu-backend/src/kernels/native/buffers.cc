#include "buffers.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <string>
#include <unordered_map>
#include <utility>

#include "errors.h"

namespace sluice {
namespace {

constexpr size_t hugePage = size_t{2} << 20;
constexpr size_t cacheLine = 64;

size_t roundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

/// Maps `bytes` (a multiple of the page) at a 2 MiB boundary: maps one page more and cuts the ends.
std::byte* mapAligned(size_t bytes) {
  const size_t reserved = bytes + hugePage;
  void* mapped = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  const uintptr_t start = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t aligned = roundUp(start, hugePage);
  if (aligned > start) munmap(mapped, aligned - start);
  const size_t behind = start + reserved - (aligned + bytes);
  if (behind > 0) munmap(reinterpret_cast<void*>(aligned + bytes), behind);
#ifdef MADV_HUGEPAGE
  // Refusal only costs speed: the memory is there with ordinary pages.
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
#endif
  return reinterpret_cast<std::byte*>(aligned);
}

}  // namespace

Block::Block(size_t bytes) : bytes_(bytes) {
  if (bytes >= hugePage) {
    mapped_ = roundUp(bytes, hugePage);
    data_ = mapAligned(mapped_);
    return;
  }
  void* taken = nullptr;
  if (posix_memalign(&taken, cacheLine, std::max<size_t>(bytes, 1)) != 0) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(taken);
}

Block::Block(Block&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      mapped_(std::exchange(other.mapped_, 0)) {}

Block& Block::operator=(Block&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

Block::~Block() {
  if (mapped_ > 0) {
    munmap(data_, mapped_);
  } else {
    std::free(data_);
  }
}

struct Buffers::Table {
  std::unordered_map<Handle, Block> blocks;
};

Buffers::Buffers() : table_(new Table) {}

Buffers::~Buffers() { delete table_; }

size_t Buffers::count() const { return table_->blocks.size(); }

Handle Buffers::alloc(size_t bytes) {
  try {
    table_->blocks.emplace(last_ + 1, Block(bytes));
  } catch (const std::bad_alloc&) {
    throw OpError("out_of_memory", "no " + std::to_string(bytes) + " bytes of host memory");
  }
  allocatedBytes_ += bytes;
  peakBytes_ = std::max(peakBytes_, allocatedBytes_);
  return ++last_;
}

void Buffers::free(Handle handle) {
  allocatedBytes_ -= block(handle).bytes();
  table_->blocks.erase(handle);
}

std::byte* Buffers::at(Handle handle, int64_t offset, int64_t bytes) const {
  const Block& found = block(handle);
  const int64_t size = static_cast<int64_t>(found.bytes());
  if (offset < 0 || bytes < 0 || offset > size || bytes > size - offset) {
    throw OpError("out_of_range", "bytes " + std::to_string(offset) + "…" +
                                      std::to_string(offset + bytes) + " are outside buffer " +
                                      std::to_string(handle) + " of " + std::to_string(size));
  }
  return found.data() + offset;
}

const Block& Buffers::block(Handle handle) const {
  const auto found = table_->blocks.find(handle);
  if (found != table_->blocks.end()) return found->second;
  const char* why = handle >= 1 && handle <= last_ ? " was freed" : " was never allocated here";
  throw OpError("unknown_buffer", "buffer " + std::to_string(handle) + why);
}

}  // namespace sluice
