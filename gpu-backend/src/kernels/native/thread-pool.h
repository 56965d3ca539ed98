#pragma once

#include <cstdint>
#include <type_traits>

namespace sluice {

/// Threads for one device, the caller being the first of them. Work is cut into chunks; each thread
/// begins with neighbouring ones and then helps those that are behind: with fixed halves a thread that
/// loses its core to another process would hold up all others for its whole half, with chunks only
/// for the one it is in.
///
/// Ladder (FP4, one input row, two threads, share of the read bandwidth): chunks from one counter,
/// which leaves no thread a stream longer than a chunk, 0.57; shares as here 0.70.
class ThreadPool {
 public:
  /// `threads` counts the caller; 0 takes what affinity and cgroup quota allow.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  /// Calls `work(chunk, worker)` once for each chunk in 0 … count − 1 and returns when all are done;
  /// `worker` is below `threads()`. `work` may not throw and may not call back into the pool.
  template <typename Work>
  void parallelFor(int64_t count, Work&& work) {
    if (count <= 0) return;
    if (count == 1 || threads_ == 1) {
      for (int64_t chunk = 0; chunk < count; chunk++) work(chunk, 0);
      return;
    }
    using Callable = std::remove_reference_t<Work>;
    const auto call = [](const void* body, int64_t chunk, int worker) {
      (*static_cast<Callable*>(const_cast<void*>(body)))(chunk, worker);
    };
    dispatch(count, call, &work);
  }

 private:
  using Body = void (*)(const void* work, int64_t chunk, int worker);

  void dispatch(int64_t count, Body body, const void* work);

  /// Kept out of this header, which every op includes, for the compiler's time.
  struct State;

  int threads_;
  State* state_;
};

/// How many threads this process may use: the smaller of its affinity mask and its cgroup's quota.
int availableThreads();

}  // namespace sluice
