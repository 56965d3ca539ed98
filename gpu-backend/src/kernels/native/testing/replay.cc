// replay: makes the calls of a recording (`recording.ts`) again, without Node, and compares every
// byte that was read back then. Built with a sanitizer, it says what the ops do to memory and to
// each other's threads. Whatever it finds ends it with a message and a status other than 0.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#include <sanitizer/common_interface_defs.h>
#endif

#include "../op.h"

namespace {

using sluice::Context;
using sluice::Handle;

/// The numbers `recording.ts` gives them.
enum class Call { ops = 0, label = 1, create = 2, destroy = 3, alloc = 4, free = 5, write = 6, read = 7, run = 8 };

struct Record {
  Call call;
  int64_t device;
  int64_t buffer;
  int64_t value;
  const char* payload;
  int64_t bytes;

  std::string text() const { return std::string(payload, static_cast<size_t>(bytes)); }
  std::vector<double> words() const {
    std::vector<double> words(static_cast<size_t>(bytes) / sizeof(double));
    std::memcpy(words.data(), payload, static_cast<size_t>(bytes));
    return words;
  }
};

struct Device {
  std::unique_ptr<Context> context;
  int64_t guardBytes;
  std::unordered_map<Handle, int64_t> sizes;
};

/// What is being replayed, for a sanitizer's last words too.
std::string label = "replay";

[[maybe_unused]] void sayLabel() { std::fprintf(stderr, "while replaying: %s\n", label.c_str()); }

class Replay {
 public:
  explicit Replay(std::string path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file || file.tellg() == 0) fail("there is no recording in " + path);
    bytes_.resize(static_cast<size_t>(file.tellg()));
    file.seekg(0).read(bytes_.data(), static_cast<std::streamsize>(bytes_.size()));
  }

  void run() {
    while (at_ < bytes_.size()) perform(next());
    std::printf("%lld ops, %lld bytes compared\n", static_cast<long long>(ops_),
                static_cast<long long>(compared_));
  }

 private:
  /// A record: call, device, buffer, value, payload's size, payload filled up to eight bytes.
  Record next() {
    double head[5];
    std::memcpy(head, take(sizeof head), sizeof head);
    const int64_t bytes = static_cast<int64_t>(head[4]);
    const char* payload = take((bytes + 7) / 8 * 8);
    return {static_cast<Call>(static_cast<int>(head[0])), static_cast<int64_t>(head[1]),
            static_cast<int64_t>(head[2]), static_cast<int64_t>(head[3]), payload, bytes};
  }

  const char* take(int64_t bytes) {
    if (at_ + static_cast<size_t>(bytes) > bytes_.size()) fail("the recording ends inside a call");
    const char* from = bytes_.data() + at_;
    at_ += static_cast<size_t>(bytes);
    return from;
  }

  void perform(const Record& record) {
    switch (record.call) {
      case Call::ops:
        return nameOps(record.text());
      case Call::label:
        label = record.text();
        return;
      case Call::create:
        return create(record);
      case Call::destroy:
        devices_.erase(record.device);
        return;
      case Call::alloc:
        return alloc(record);
      case Call::free:
        device(record).context->buffers.free(record.buffer);
        device(record).sizes.erase(record.buffer);
        return;
      case Call::write:
        if (record.bytes > 0) std::memcpy(place(record), record.payload, size_t(record.bytes));
        return;
      case Call::read:
        return compare(record);
      case Call::run:
        return runWords(record);
    }
    fail("there is no call " + std::to_string(int(record.call)));
  }

  /// Ops are numbered as they were linked, which is another order here.
  void nameOps(const std::string& names) {
    numbers_.clear();
    for (size_t from = 0; from < names.size();) {
      const size_t end = std::min(names.find('\n', from), names.size());
      const std::string name = names.substr(from, end - from);
      int number = -1;
      for (size_t i = 0; i < sluice::opTable().size(); i++) {
        if (name == sluice::opTable()[i].name) number = static_cast<int>(i);
      }
      numbers_.push_back(number);
      from = end + 1;
    }
  }

  void create(const Record& record) {
    const std::vector<double> options = record.words();
    const auto isa = static_cast<int>(options.at(1));
    const auto best = static_cast<int>(sluice::bestIsa());
    Device& made = devices_[record.device];
    made.context = std::make_unique<Context>(
        static_cast<int>(options.at(0)), static_cast<sluice::Isa>(isa < 0 || isa > best ? best : isa),
        static_cast<sluice::Numerics>(static_cast<int>(options.at(2))));
    made.guardBytes = record.value;
  }

  void alloc(const Record& record) {
    const Handle handle = device(record).context->buffers.alloc(size_t(record.value));
    if (handle != record.buffer) fail("buffers are numbered in another order");
    device(record).sizes[handle] = record.value;
  }

  std::byte* place(const Record& record) {
    return device(record).context->buffers.at(record.buffer, record.value, record.bytes);
  }

  void compare(const Record& record) {
    const char* found = reinterpret_cast<const char*>(place(record));
    compared_ += record.bytes;
    if (std::memcmp(found, record.payload, size_t(record.bytes)) == 0) return;
    for (int64_t i = 0; i < record.bytes; i++) {
      if (found[i] == record.payload[i]) continue;
      fail("byte " + std::to_string(record.value + i) + " of buffer " +
           std::to_string(record.buffer) + " is " + std::to_string(found[i] & 255) +
           ", and was recorded as " + std::to_string(record.payload[i] & 255));
    }
  }

  void runWords(const Record& record) {
    std::vector<double> words = record.words();
    for (size_t at = 0; at + 1 < words.size(); at += 2 + static_cast<size_t>(words[at + 1])) {
      const int number = numbers_.at(static_cast<size_t>(words[at]));
      if (number < 0) fail("an op of the recording is not linked");
      words[at] = number;
      ops_++;
    }
    Device& on = device(record);
    poison(on, true);
    sluice::runWords(*on.context, words.data(), static_cast<int64_t>(words.size()));
    poison(on, false);
  }

  /// While ops run, nobody may touch the guards round the tensors.
  void poison(const Device& on, bool guarded) {
#if defined(__SANITIZE_ADDRESS__)
    for (const auto& [handle, size] : on.sizes) {
      std::byte* data = on.context->buffers.at(handle, 0, size);
      for (std::byte* guard : {data, data + size - on.guardBytes}) {
        if (guarded) {
          ASAN_POISON_MEMORY_REGION(guard, size_t(on.guardBytes));
        } else {
          ASAN_UNPOISON_MEMORY_REGION(guard, size_t(on.guardBytes));
        }
      }
    }
#else
    (void)on;
    (void)guarded;
#endif
  }

  Device& device(const Record& record) {
    const auto found = devices_.find(record.device);
    if (found == devices_.end()) fail("there is no device " + std::to_string(record.device));
    return found->second;
  }

  [[noreturn]] void fail(const std::string& why) const {
    std::fprintf(stderr, "%s: %s\n", label.c_str(), why.c_str());
    std::exit(1);
  }

  std::vector<char> bytes_;
  size_t at_ = 0;
  std::vector<int> numbers_;
  std::unordered_map<int64_t, Device> devices_;
  int64_t ops_ = 0;
  int64_t compared_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  __sanitizer_set_death_callback(sayLabel);
#endif
  for (int i = 1; i < count; i++) Replay(arguments[i]).run();
  return count > 1 ? 0 : 2;
}
