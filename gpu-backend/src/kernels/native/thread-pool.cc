#include "thread-pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace sluice {
namespace {

/// Longer than the gaps between a step's ops, shorter than a scheduler's slice: a thread that waits
/// longer sleeps, and leaves its core to whoever was preempted.
constexpr auto spinTime = std::chrono::microseconds(50);
/// Chunks of one job: their numbers take 24 bits each of a range's word.
constexpr int64_t chunksMax = (int64_t{1} << 24) - 1;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins until `ready()`, at most `spinTime`. Looks at the clock rarely: that costs as much as a
/// hundred looks at a cached word.
template <typename Ready>
bool spinUntil(Ready ready) {
  const auto deadline = std::chrono::steady_clock::now() + spinTime;
  do {
    for (int i = 0; i < 64; i++) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return ready();
}

/// A thread's share of a job: chunks `next … end − 1`, and the job's number, so that a thread that was
/// held up between looking and taking cannot take from a later job what it saw in an earlier one.
struct Share {
  uint32_t next;
  uint32_t end;
  uint16_t job;

  static Share of(uint64_t word) {
    return {static_cast<uint32_t>(word & 0xffffff), static_cast<uint32_t>(word >> 24 & 0xffffff),
            static_cast<uint16_t>(word >> 48)};
  }
  uint64_t word() const { return uint64_t{job} << 48 | uint64_t{end} << 24 | next; }
  bool empty() const { return next >= end; }
};

/// On a cache line of its own: its thread takes from it all the time.
struct alignas(64) SharedShare {
  std::atomic<uint64_t> word{0};
};

/// Cores' worth of CPU time from `quota` and `period` in microseconds; 0 when unlimited.
int quotaThreads(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return 0;
  return std::max(1, static_cast<int>(std::ceil(quota / period)));
}

int cgroupThreads() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period) return quota == "max" ? 0 : quotaThreads(std::stod(quota), period);
  std::ifstream v1Quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream v1Period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double us = 0;
  if (v1Quota >> us && v1Period >> period) return quotaThreads(us, period);
  return 0;
}

int affinityThreads() {
#ifdef __linux__
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) return std::max(1, CPU_COUNT(&mask));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

int availableThreads() {
  const int quota = cgroupThreads();
  const int cores = affinityThreads();
  return quota > 0 ? std::min(quota, cores) : cores;
}

struct ThreadPool::State {
  /// One a thread, the caller's first.
  std::vector<SharedShare> shares;
  std::atomic<uint32_t> job{0};
  std::atomic<uint32_t> unfinished{0};
  std::atomic<uint32_t> sleepers{0};
  std::atomic<bool> callerSleeps{false};
  std::atomic<bool> stopping{false};
  /// Of the current job; stable while any of its chunks is unfinished.
  Body body = nullptr;
  const void* work = nullptr;
  std::vector<std::thread> workers;

  explicit State(int threads) : shares(threads) {}
  void publish(int64_t count);
  int64_t takeFirst(int worker);
  int64_t takeLast(int worker);
  int64_t takeAny(int worker);
  void runChunks(int worker);
  void workerLoop(int worker);
  void waitForWork(uint32_t seen);
  void waitForOthers();
};

ThreadPool::ThreadPool(int threads)
    : threads_(threads > 0 ? threads : availableThreads()), state_(new State(threads_)) {
  for (int worker = 1; worker < threads_; worker++) {
    state_->workers.emplace_back([this, worker] { state_->workerLoop(worker); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true);
  state_->job.fetch_add(1);
  state_->job.notify_all();
  for (std::thread& thread : state_->workers) thread.join();
  delete state_;
}

void ThreadPool::dispatch(int64_t count, Body body, const void* work) {
  if (count > chunksMax) std::abort();
  State& state = *state_;
  state.body = body;
  state.work = work;
  state.publish(count);
  state.runChunks(0);
  state.waitForOthers();
}

/// Gives every thread neighbouring chunks: what it reads from memory is then one stream, across the
/// borders of its chunks.
void ThreadPool::State::publish(int64_t count) {
  const int64_t threads = static_cast<int64_t>(shares.size());
  const uint16_t number = static_cast<uint16_t>(job.load(std::memory_order_relaxed) + 1);
  unfinished.store(static_cast<uint32_t>(count), std::memory_order_relaxed);
  for (int64_t i = 0; i < threads; i++) {
    const Share share{static_cast<uint32_t>(count * i / threads),
                      static_cast<uint32_t>(count * (i + 1) / threads), number};
    shares[i].word.store(share.word(), std::memory_order_release);
  }
  job.fetch_add(1);
  if (sleepers.load() > 0) job.notify_all();
}

/// The next chunk of a thread's own share, or −1.
int64_t ThreadPool::State::takeFirst(int worker) {
  std::atomic<uint64_t>& word = shares[worker].word;
  uint64_t seen = word.load(std::memory_order_acquire);
  for (;;) {
    Share share = Share::of(seen);
    if (share.empty()) return -1;
    const int64_t chunk = share.next++;
    if (word.compare_exchange_weak(seen, share.word(), std::memory_order_acq_rel,
                                   std::memory_order_acquire)) {
      return chunk;
    }
  }
}

/// The last chunk of another thread's share, or −1.
int64_t ThreadPool::State::takeLast(int worker) {
  std::atomic<uint64_t>& word = shares[worker].word;
  uint64_t seen = word.load(std::memory_order_acquire);
  for (;;) {
    Share share = Share::of(seen);
    if (share.empty()) return -1;
    const int64_t chunk = --share.end;
    if (word.compare_exchange_weak(seen, share.word(), std::memory_order_acq_rel,
                                   std::memory_order_acquire)) {
      return chunk;
    }
  }
}

/// A chunk of the thread's own share, then of those of the others.
int64_t ThreadPool::State::takeAny(int worker) {
  int64_t chunk = takeFirst(worker);
  const int threads = static_cast<int>(shares.size());
  for (int i = 1; chunk < 0 && i < threads; i++) chunk = takeLast((worker + i) % threads);
  return chunk;
}

/// Runs chunks of the current job until nobody has any left to take.
void ThreadPool::State::runChunks(int worker) {
  for (int64_t chunk = takeAny(worker); chunk >= 0; chunk = takeAny(worker)) {
    body(work, chunk, worker);
    if (unfinished.fetch_sub(1) == 1 && callerSleeps.load()) unfinished.notify_one();
  }
}

void ThreadPool::State::workerLoop(int worker) {
  while (!stopping.load(std::memory_order_relaxed)) {
    // Read before looking for chunks: a job given out after the look has another number.
    const uint32_t seen = job.load(std::memory_order_acquire);
    runChunks(worker);
    waitForWork(seen);
  }
}

void ThreadPool::State::waitForWork(uint32_t seen) {
  if (spinUntil([&] { return job.load(std::memory_order_relaxed) != seen; })) return;
  sleepers.fetch_add(1);
  job.wait(seen);
  sleepers.fetch_sub(1);
}

/// The caller gives up its core after a short spin: the chunk it waits for may belong to a thread
/// that lost its own core, and can then run here.
void ThreadPool::State::waitForOthers() {
  if (spinUntil([this] { return unfinished.load(std::memory_order_acquire) == 0; })) return;
  callerSleeps.store(true);
  for (uint32_t left = unfinished.load(); left != 0; left = unfinished.load()) {
    unfinished.wait(left);
  }
  callerSleeps.store(false);
}

}  // namespace sluice
