#include "simt.h"

#include "async.h"

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <sys/mman.h>

#if defined(__SANITIZE_THREAD__)
#define SLUICE_TSAN 1
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* at);
void __tsan_release(void* at);
}
#else
#define SLUICE_TSAN 0
#endif

namespace simt {

Thread* current;
dim3 blockIndex;
dim3 blockExtent;
dim3 gridExtent;
unsigned char* sharedMemory;

namespace {

constexpr int threadsMost = 1024;
constexpr size_t stackBytes = SLUICE_TSAN ? 256 * 1024 : 128 * 1024;
constexpr uint32_t guardWords = 64;
constexpr uint32_t notANumber = 0x7fd37fb9u;

enum class State { ready, atBarrier, meeting, polling, done };

struct Fiber : Thread {
  State state;
  void* stack;
  void* stackPointer;
  void* announced;
  /// What it polls for.
  bool (*awaited)(uint32_t at, uint32_t parity);
  uint32_t awaitedAt;
  uint32_t awaitedParity;
};

struct Warp {
  uint32_t waiting;
  uint32_t waitingMask;
  Exchange exchange;
#if SLUICE_TSAN
  char order;
#endif
  Words in[warpSize];
  Words out[warpSize];
};

Fiber fibers[threadsMost];
Warp warps[threadsMost / warpSize];
int order[warpSize];
int threadCount;
void* schedulerStack;
void (*threadBody)(void**);
void** threadParams;
uint64_t randomState;

#if SLUICE_TSAN
void* schedulerAnnounced;
/// What the sanitizer takes for the places where threads wait for each other.
char barrierOrder;
char blockBegun;
char blockEnded;
#endif

enum class RunOrder { forward, reverse, random };
RunOrder runOrder;

#if defined(__x86_64__)
/// Keeps what a call keeps, and goes on where the other stack left off.
extern "C" void sluice_simt_switch(void** from, void* to);
asm(R"(
.text
.globl sluice_simt_switch
.hidden sluice_simt_switch
.type sluice_simt_switch, @function
sluice_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
constexpr int keptWords = 6;
#elif defined(__aarch64__)
extern "C" void sluice_simt_switch(void** from, void* to);
asm(R"(
.text
.globl sluice_simt_switch
.hidden sluice_simt_switch
.type sluice_simt_switch, %function
sluice_simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#else
#error "the SIMT build knows x86-64 and arm64"
#endif

SLUICE_UNSEEN void giveWay() {
  Fiber* const self = static_cast<Fiber*>(current);
#if SLUICE_TSAN
  __tsan_switch_to_fiber(schedulerAnnounced, 1);
#endif
  sluice_simt_switch(&self->stackPointer, schedulerStack);
}

SLUICE_UNSEEN void resume(Fiber* fiber) {
  current = fiber;
#if SLUICE_TSAN
  __tsan_switch_to_fiber(fiber->announced, 1);
#endif
  sluice_simt_switch(&schedulerStack, fiber->stackPointer);
}

SLUICE_UNSEEN void fiberMain() {
#if SLUICE_TSAN
  __tsan_acquire(&blockBegun);
#endif
  threadBody(threadParams);
#if SLUICE_TSAN
  __tsan_release(&blockEnded);
#endif
  static_cast<Fiber*>(current)->state = State::done;
  giveWay();
  fail("a finished thread was run again");
}

SLUICE_UNSEEN void* mapped(size_t bytes) {
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) fail("no room for stacks");
  return at;
}

SLUICE_UNSEEN void prepare(Fiber& fiber, int number) {
  if (fiber.stack == nullptr) {
    fiber.stack = mapped(stackBytes);
#if SLUICE_TSAN
    fiber.announced = __tsan_create_fiber(0);
#endif
  }
  fiber.number = number;
  fiber.index.x = static_cast<unsigned>(number) % blockExtent.x;
  fiber.index.y = static_cast<unsigned>(number) / blockExtent.x % blockExtent.y;
  fiber.index.z = static_cast<unsigned>(number) / (blockExtent.x * blockExtent.y);
  fiber.state = State::ready;
  void** top = reinterpret_cast<void**>(static_cast<char*>(fiber.stack) + stackBytes);
#if defined(__x86_64__)
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(fiberMain);
  for (int i = 0; i < keptWords; i++) *--top = nullptr;
#else
  top -= 20;
  for (int i = 0; i < 20; i++) top[i] = nullptr;
  top[11] = reinterpret_cast<void*>(fiberMain);
#endif
  fiber.stackPointer = top;
}

SLUICE_UNSEEN uint32_t nextRandom() {
  randomState = randomState * 6364136223846793005u + 1442695040888963407u;
  return static_cast<uint32_t>(randomState >> 33);
}

SLUICE_UNSEEN void orderLanes() {
  for (int i = 0; i < warpSize; i++) order[i] = runOrder == RunOrder::reverse ? warpSize - 1 - i : i;
  if (runOrder != RunOrder::random) return;
  for (int i = warpSize - 1; i > 0; i--) {
    const int other = static_cast<int>(nextRandom() % static_cast<uint32_t>(i + 1));
    const int kept = order[i];
    order[i] = order[other];
    order[other] = kept;
  }
}

/// Runs a warp's lanes until each waits at the block's barrier, or for lanes that do not come.
SLUICE_UNSEEN void runWarp(int warp) {
  const int first = warp * warpSize;
  for (bool ran = true; ran;) {
    ran = false;
    if (runOrder == RunOrder::random) orderLanes();
    for (int i = 0; i < warpSize; i++) {
      const int number = first + order[i];
      if (number >= threadCount || fibers[number].state != State::ready) continue;
      resume(&fibers[number]);
      ran = true;
    }
  }
}

/// Whether any thread that polls has what it waits for, and may go on. If none has, those may that only
/// gave way.
SLUICE_UNSEEN bool wakePolling() {
  bool woken = false;
  for (const bool gaveWay : {false, true}) {
    for (int i = 0; i < threadCount && (!gaveWay || !woken); i++) {
      Fiber& fiber = fibers[i];
      if (fiber.state != State::polling || (fiber.awaited == nullptr) != gaveWay) continue;
      if (!gaveWay && !fiber.awaited(fiber.awaitedAt, fiber.awaitedParity)) continue;
      fiber.state = State::ready;
      woken = true;
    }
  }
  return woken;
}

SLUICE_UNSEEN int countOf(State state) {
  int count = 0;
  for (int i = 0; i < threadCount; i++) count += fibers[i].state == state;
  return count;
}

SLUICE_UNSEEN void runBlock() {
  const int warpCount = (threadCount + warpSize - 1) / warpSize;
  for (int i = 0; i < threadCount; i++) prepare(fibers[i], i);
  for (int warp = 0; warp < warpCount; warp++) warps[warp].waiting = 0;
  for (;;) {
    const uint32_t turn = runOrder == RunOrder::random ? nextRandom() : 0;
    for (int i = 0; i < warpCount; i++) {
      const int warp = static_cast<int>((static_cast<uint32_t>(i) + turn) % uint32_t(warpCount));
      runWarp(runOrder == RunOrder::reverse ? warpCount - 1 - warp : warp);
    }
    if (wakePolling()) continue;
    if (countOf(State::polling) > 0) {
      if (finishCopy()) continue;
      fail("threads wait for a phase that never ends");
    }
    if (countOf(State::meeting) > 0) fail("lanes of a warp did not come to its exchange");
    if (countOf(State::atBarrier) == 0) return;
    if (countOf(State::done) > 0) fail("threads ended while others wait at a barrier");
    for (int i = 0; i < threadCount; i++) fibers[i].state = State::ready;
    barriersPassed++;
  }
}

SLUICE_UNSEEN RunOrder orderFromEnvironment() {
  const char* const name = std::getenv("SLUICE_SIMT_ORDER");
  if (name == nullptr || std::strcmp(name, "forward") == 0) return RunOrder::forward;
  if (std::strcmp(name, "reverse") == 0) return RunOrder::reverse;
  if (std::strcmp(name, "random") == 0) return RunOrder::random;
  fail("SLUICE_SIMT_ORDER is forward, reverse or random");
}

/// Fills a block's shared memory, and the words behind it that no thread may touch.
SLUICE_UNSEEN void fillShared(uint32_t* words, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) words[i] = notANumber;
}

}  // namespace

SLUICE_UNSEEN void fail(const char* what) {
  std::fprintf(stderr, "simt: %s (block %u %u %u)\n", what, blockIndex.x, blockIndex.y,
               blockIndex.z);
  std::fflush(stderr);
  std::abort();
}

SLUICE_UNSEEN void barrier() {
#if SLUICE_TSAN
  __tsan_release(&barrierOrder);
#endif
  static_cast<Fiber*>(current)->state = State::atBarrier;
  giveWay();
#if SLUICE_TSAN
  __tsan_acquire(&barrierOrder);
#endif
}

SLUICE_UNSEEN void waitUntil(bool (*ready)(uint32_t at, uint32_t parity), uint32_t at,
                             uint32_t parity) {
  Fiber* const self = static_cast<Fiber*>(current);
  if (ready(at, parity)) return;
  self->awaited = ready;
  self->awaitedAt = at;
  self->awaitedParity = parity;
  self->state = State::polling;
  giveWay();
}

SLUICE_UNSEEN void giveWayOnce() {
  Fiber* const self = static_cast<Fiber*>(current);
  self->awaited = nullptr;
  self->state = State::polling;
  giveWay();
}

SLUICE_UNSEEN void meet(uint32_t mask, Exchange exchange, const uint32_t* in, uint32_t* out) {
  Fiber* const self = static_cast<Fiber*>(current);
  Warp& warp = warps[self->number / warpSize];
  const int lane = self->number % warpSize;
  const uint32_t bit = 1u << lane;
  if ((mask & bit) == 0) fail("a lane is not in its own mask");
  if (warp.waiting != 0 && (warp.exchange != exchange || warp.waitingMask != mask)) {
    fail("lanes of a warp came to different exchanges");
  }
  warp.exchange = exchange;
  warp.waitingMask = mask;
  warp.waiting |= bit;
  for (int i = 0; i < exchangeWords; i++) warp.in[lane][i] = in[i];
  if (warp.waiting != mask) {
    self->state = State::meeting;
    giveWay();
  } else {
    warp.waiting = 0;
    if (exchange != nullptr) exchange(mask, warp.in, warp.out);
    Fiber* const first = self - lane;
    for (int i = 0; i < warpSize; i++) {
      if ((mask >> i & 1) != 0 && i != lane) first[i].state = State::ready;
    }
  }
  for (int i = 0; i < exchangeWords; i++) out[i] = warp.out[lane][i];
}

SLUICE_UNSEEN void meetInOrder(uint32_t mask) {
  uint32_t words[exchangeWords] = {};
#if SLUICE_TSAN
  char* const place = &warps[current->number / warpSize].order;
  __tsan_release(place);
#endif
  meet(mask, nullptr, words, words);
#if SLUICE_TSAN
  __tsan_acquire(place);
#endif
}

SLUICE_UNSEEN void shuffle(uint32_t mask, const Words* in, Words* out) {
  for (int lane = 0; lane < warpSize; lane++) {
    if ((mask >> lane & 1) == 0) continue;
    const uint32_t from = in[lane][1];
    out[lane][0] = (mask >> from & 1) != 0 ? in[from][0] : notANumber;
  }
}

SLUICE_UNSEEN void ballot(uint32_t mask, const Words* in, Words* out) {
  uint32_t votes = 0;
  for (int lane = 0; lane < warpSize; lane++) {
    if ((mask >> lane & 1) != 0 && in[lane][0] != 0) votes |= 1u << lane;
  }
  for (int lane = 0; lane < warpSize; lane++) out[lane][0] = votes;
}

SLUICE_UNSEEN void run(const SluiceSimtLaunch* launch, void (*body)(void** params), int threadsMax) {
  gridExtent = {launch->grid[0], launch->grid[1], launch->grid[2]};
  blockExtent = {launch->block[0], launch->block[1], launch->block[2]};
  threadCount = static_cast<int>(blockExtent.x * blockExtent.y * blockExtent.z);
  if (threadCount < 1 || threadCount > threadsMax) fail("more threads than the kernel was built for");
  threadBody = body;
  threadParams = launch->params;
  runOrder = orderFromEnvironment();
  randomState = 1;
  orderLanes();
  const uint32_t words = (launch->sharedBytes + 3) / 4;
  sharedBytes = launch->sharedBytes;
  // Its own allocation of the very size, so that an address sanitizer knows where it ends.
  void* room = nullptr;
  const uint32_t guard = guardWords;
#if defined(__SANITIZE_ADDRESS__)
  const size_t roomBytes = words * 4u;
#else
  const size_t roomBytes = (words + guard) * 4u;
#endif
  if (posix_memalign(&room, 128, roomBytes == 0 ? 4 : roomBytes) != 0) fail("no shared memory");
  sharedMemory = static_cast<unsigned char*>(room);
  uint32_t* const shared = static_cast<uint32_t*>(room);
  for (unsigned z = 0; z < gridExtent.z; z++) {
    for (unsigned y = 0; y < gridExtent.y; y++) {
      for (unsigned x = 0; x < gridExtent.x; x++) {
        blockIndex = {x, y, z};
        fillShared(shared, static_cast<uint32_t>(roomBytes / 4));
#if SLUICE_TSAN
        // Blocks share nothing but what they may: their order is not looked at.
        schedulerAnnounced = __tsan_get_current_fiber();
        __tsan_release(&blockBegun);
#endif
        beginAsync(threadCount);
        runBlock();
        endAsync();
#if SLUICE_TSAN
        __tsan_acquire(&blockEnded);
#endif
        for (uint32_t i = words; i < roomBytes / 4; i++) {
          if (shared[i] != notANumber) fail("a block wrote behind its shared memory");
        }
      }
    }
  }
  std::free(room);
}

}  // namespace simt
