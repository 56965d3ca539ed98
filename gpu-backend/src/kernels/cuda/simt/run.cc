// Runs launches that stand in its input on buffers that stand there too, and writes the buffers back:
// the kernels without Node, which is too large and too noisy to run under a sanitizer.
//
// Input, all numbers 64 bits: count of buffers; each: its number, bytes, contents. Count of launches;
// each: bytes of the kernel's name, name, grid (3), block (3), shared bytes, bytes of the struct, struct.
// A word of a struct whose upper byte is 0x51 is a pointer: buffer in bits 40 … 55, offset in it below.
// Output: the buffers' contents one after the other.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <vector>

#include "simt.h"

namespace {

[[noreturn]] void refuse(const std::string& what) {
  std::fprintf(stderr, "run: %s\n", what.c_str());
  std::exit(2);
}

void readAll(void* into, size_t bytes) {
  if (bytes > 0 && std::fread(into, 1, bytes, stdin) != bytes) refuse("the input ends too early");
}

uint64_t number() {
  uint64_t value = 0;
  readAll(&value, sizeof value);
  return value;
}

/// Each in an allocation of its own, so that a sanitizer sees where it ends.
struct Buffer {
  uint64_t number;
  uint64_t bytes;
  char* data;
};

void relocate(std::vector<uint64_t>& words, const std::vector<Buffer>& buffers) {
  for (uint64_t& word : words) {
    if (word >> 56 != 0x51) continue;
    const uint64_t wanted = word >> 40 & 0xffff;
    uint64_t found = 0;
    for (const Buffer& buffer : buffers) {
      if (buffer.number != wanted) continue;
      found = reinterpret_cast<uint64_t>(buffer.data) + (word & 0xffffffffffu);
    }
    if (found == 0) refuse("a pointer into a buffer that is not there");
    word = found;
  }
}

void runOne(const std::vector<Buffer>& buffers) {
  std::string name(number(), ' ');
  readAll(name.data(), name.size());
  SluiceSimtLaunch launch{};
  for (uint32_t& extent : launch.grid) extent = static_cast<uint32_t>(number());
  for (uint32_t& extent : launch.block) extent = static_cast<uint32_t>(number());
  launch.sharedBytes = static_cast<uint32_t>(number());
  std::vector<uint64_t> args(number() / 8);
  readAll(args.data(), args.size() * 8);
  relocate(args, buffers);
  const std::string symbol = "sluice_simt_" + name;
  void* const params = dlsym(RTLD_DEFAULT, (symbol + "_params").c_str());
  void* const kernel = dlsym(RTLD_DEFAULT, symbol.c_str());
  if (kernel == nullptr || params == nullptr) refuse("there is no kernel " + name);
  const auto* described = static_cast<const SluiceSimtParams*>(params);
  if (described->bytes[0] != args.size() * 8) {
    refuse(name + " takes " + std::to_string(described->bytes[0]) + " bytes of arguments, not " +
           std::to_string(args.size() * 8));
  }
  // Tensor maps lie at multiples of 64.
  void* first = nullptr;
  if (posix_memalign(&first, 64, args.size() * 8) != 0) refuse("no memory");
  std::memcpy(first, args.data(), args.size() * 8);
  launch.params = &first;
  reinterpret_cast<void (*)(const SluiceSimtLaunch*)>(kernel)(&launch);
  std::free(first);
}

}  // namespace

int main() {
  std::vector<Buffer> buffers(number());
  for (Buffer& buffer : buffers) {
    buffer.number = number();
    buffer.bytes = number();
    buffer.data = nullptr;
    void* room = nullptr;
    if (posix_memalign(&room, 256, buffer.bytes) != 0) refuse("no memory");
    buffer.data = static_cast<char*>(room);
    readAll(buffer.data, buffer.bytes);
  }
  for (uint64_t left = number(); left > 0; left--) runOne(buffers);
  for (const Buffer& buffer : buffers) std::fwrite(buffer.data, 1, buffer.bytes, stdout);
  return std::fflush(stdout);
}
