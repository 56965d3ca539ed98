#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice {

/// Handles count up and are never given out twice, so a freed one stays recognisable. They cross to
/// JavaScript as numbers: 2^53 of them last.
using Handle = int64_t;

/// Bytes on pages of 2 MiB where the kernel grants them (`madvise`), 4 KiB pages halve the read
/// bandwidth of weights. Small blocks come from the heap, aligned to cache lines.
class Block {
 public:
  Block() = default;
  /// Throws `std::bad_alloc`.
  explicit Block(size_t bytes);
  Block(Block&& other) noexcept;
  Block& operator=(Block&& other) noexcept;
  ~Block();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  /// Bytes mapped; 0 when the block is from the heap.
  size_t mapped_ = 0;
};

/// The device's buffers by handle.
class Buffers {
 public:
  Buffers();
  ~Buffers();
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  Handle alloc(size_t bytes);
  void free(Handle handle);
  /// Where `bytes` bytes from `offset` on lie; throws `unknown_buffer` or `out_of_range`.
  std::byte* at(Handle handle, int64_t offset, int64_t bytes) const;

  size_t allocatedBytes() const { return allocatedBytes_; }
  size_t peakBytes() const { return peakBytes_; }
  size_t count() const;

 private:
  /// Kept out of this header, which every op includes, for the compiler's time.
  struct Table;

  const Block& block(Handle handle) const;

  Table* table_;
  Handle last_ = 0;
  size_t allocatedBytes_ = 0;
  size_t peakBytes_ = 0;
};

}  // namespace sluice
