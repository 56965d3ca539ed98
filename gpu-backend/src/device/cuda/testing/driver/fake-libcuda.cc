// A libcuda.so that runs kernels on the host, for tests of everything above the driver: the same
// calls, the same order, other hardware. Kernels come from a library built as `simt-abi.h` says.
//
// It is as unkind as the real one may be. Nothing queued on a stream runs before somebody waits for
// it, so bytes reused too early arrive wrong; a graph's nodes run in the last order their
// dependencies allow. Every buffer ends at a page nobody may touch, no address is given out twice,
// and freed memory is taken away, so that a kernel, copy or recorded graph that uses what is not its
// own faults as a GPU would: with an error that stays.

#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "../simt-abi.h"
#include "../tensor-map.h"

#define SLUICE_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Result : int32_t {
  success = 0,
  invalidValue = 1,
  outOfMemory = 2,
  notInitialized = 3,
  noDevice = 100,
  invalidDevice = 101,
  invalidImage = 200,
  invalidContext = 201,
  noBinaryForGpu = 209,
  invalidHandle = 400,
  notFound = 500,
  notReady = 600,
  illegalAddress = 700,
  peerAccessAlreadyEnabled = 704,
  launchFailed = 719,
  notSupported = 801,
};

constexpr uint64_t pageBytes = 4096;
constexpr uint64_t alignBytes = 256;
/// Addresses a device may give out in its life.
constexpr uint64_t arenaBytes = uint64_t{1} << 42;
constexpr int devicesMax = 8;
/// NaN as f32 and as both halves in bf16, far beyond any index as i32.
constexpr uint32_t poison = 0x7fb57f9d;
constexpr uint8_t canary = 0xd7;
constexpr uint32_t sharedBytesFree = 48 * 1024;
constexpr uint32_t sharedBytesMax = 227 * 1024;

/// What a test asks for: "devices=2,oomAt=5".
struct Options {
  int64_t version = 13000;
  int64_t devices = 1;
  int64_t architecture = 90;
  int64_t memoryBytes = int64_t{8} << 30;
  /// The n-th allocation from now on fails, the n-th kernel run faults, or never ends; 0: none.
  int64_t oomAt = 0;
  int64_t faultAt = 0;
  int64_t hangAt = 0;
  /// Whether GPUs can reach each other's memory.
  int64_t peers = 1;
  /// 0: kernels are counted and not run, to see what everything around them costs.
  int64_t execute = 1;

  void parse(const char* text) {
    const std::map<std::string, int64_t*> fields = {
        {"version", &version}, {"devices", &devices}, {"architecture", &architecture},
        {"memoryBytes", &memoryBytes}, {"oomAt", &oomAt}, {"faultAt", &faultAt}, {"hangAt", &hangAt},
        {"peers", &peers}, {"execute", &execute}};
    std::string rest = text == nullptr ? "" : text;
    while (!rest.empty()) {
      const size_t comma = std::min(rest.find(','), rest.size());
      const std::string field = rest.substr(0, comma);
      rest = comma < rest.size() ? rest.substr(comma + 1) : "";
      const size_t equals = field.find('=');
      const auto known = fields.find(field.substr(0, equals));
      if (equals == std::string::npos || known == fields.end()) {
        std::fprintf(stderr, "fake libcuda: no option %s\n", field.c_str());
        std::abort();
      }
      *known->second = std::atoll(field.c_str() + equals + 1);
    }
  }
};

struct Buffer {
  uint64_t address = 0;
  uint64_t bytes = 0;
  /// Pages that were made usable for it.
  uint64_t first = 0;
  uint64_t pages = 0;
};

struct Stream;

struct Context {
  int ordinal = 0;
  int retained = 0;
  /// What every call gives once something has gone wrong for good.
  int32_t failure = success;
  uint64_t arena = 0;
  uint64_t used = 0;
  uint64_t liveBytes = 0;
  std::map<uint64_t, Buffer> buffers;
  std::set<int> peers;
  /// Which other GPUs may use the memory of this one's pool.
  std::set<int> poolAccess;
  std::set<Stream*> streams;
};

struct Event {
  Context* context = nullptr;
  Stream* stream = nullptr;
  uint64_t recorded = 0;
  uint64_t reached = 0;
  std::chrono::steady_clock::time_point time;
};

struct Stream {
  Context* context = nullptr;
  std::deque<std::function<int32_t()>> queue;
  bool running = false;
};

struct Module {
  Context* context = nullptr;
  void* library = nullptr;
};

struct Function {
  Module* module = nullptr;
  std::string name;
  const SluiceSimtParams* params = nullptr;
  void (*run)(const SluiceSimtLaunch*) = nullptr;
  uint32_t dynamicShared = sharedBytesFree;
};

/// Parameters lie at multiples of what any of them may ask for.
struct alignas(64) ParamLine {
  uint64_t words[8];
};

/// A launch with its parameters copied.
struct Launch {
  Function* function = nullptr;
  SluiceSimtLaunch shape{};
  std::vector<std::vector<ParamLine>> values;
};

struct Node {
  std::shared_ptr<Launch> launch;
  std::vector<const Node*> after;
};

struct Graph {
  std::vector<std::unique_ptr<Node>> nodes;
};

struct GraphExec {
  std::vector<std::shared_ptr<Launch>> launches;
};

struct HostMemory {
  uint64_t bytes = 0;
};

struct Counts {
  int64_t allocations = 0;
  int64_t kernels = 0;
  int64_t graphLaunches = 0;
  int64_t peerCopies = 0;
};

struct State {
  Options options;
  bool initialized = false;
  bool configured = false;
  Context contexts[devicesMax];
  Context* current = nullptr;
  std::set<Stream*> streams;
  std::set<Event*> events;
  std::set<Module*> modules;
  std::set<Function*> functions;
  std::set<Graph*> graphs;
  std::set<GraphExec*> execs;
  std::map<uint64_t, HostMemory> host;
  Counts counts;
  std::string fault;
};

State* state = new State();

// ---- faults ------------------------------------------------------------------------------------

/// What is running, for the message of a fault.
std::string running;
sigjmp_buf faultJump;
volatile sig_atomic_t guarded = 0;
volatile uint64_t faultAddress = 0;
struct sigaction earlierSegv;
struct sigaction earlierBus;

void onFault(int number, siginfo_t* info, void*) {
  if (guarded == 0) {
    // Not ours: whoever came before us decides.
    sigaction(SIGSEGV, &earlierSegv, nullptr);
    sigaction(SIGBUS, &earlierBus, nullptr);
    raise(number);
    return;
  }
  faultAddress = reinterpret_cast<uint64_t>(info->si_addr);
  siglongjmp(faultJump, 1);
}

/// Says what lies, or lay, at an address.
std::string describe(uint64_t address) {
  char text[256];
  for (const Context& context : state->contexts) {
    if (context.arena == 0 || address < context.arena) continue;
    if (address >= context.arena + arenaBytes) continue;
    const auto next = context.buffers.upper_bound(address);
    if (next != context.buffers.begin()) {
      const Buffer& buffer = std::prev(next)->second;
      const uint64_t end = buffer.address + buffer.bytes;
      if (address < end) {
        std::snprintf(text, sizeof text, "a buffer of GPU %d, which this one may not reach",
                      context.ordinal);
        return text;
      }
      if (address < buffer.first + (buffer.pages + 1) * pageBytes) {
        std::snprintf(text, sizeof text, "%llu bytes behind a buffer of %llu bytes",
                      static_cast<unsigned long long>(address - end + 1),
                      static_cast<unsigned long long>(buffer.bytes));
        return text;
      }
    }
    return address < context.arena + context.used ? "memory that was freed"
                                                  : "memory never allocated";
  }
  return address < pageBytes ? "a null pointer" : "memory that is no GPU's";
}

/// Runs `body`; a touch of forbidden memory ends it and gives `illegalAddress`.
int32_t guard(const std::string& what, const std::function<int32_t()>& body) {
  struct sigaction ours {};
  ours.sa_sigaction = onFault;
  ours.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &ours, &earlierSegv);
  sigaction(SIGBUS, &ours, &earlierBus);
  running = what;
  int32_t result = success;
  if (sigsetjmp(faultJump, 1) == 0) {
    guarded = 1;
    result = body();
  } else {
    result = illegalAddress;
    state->fault = running + " touched " + describe(faultAddress);
  }
  guarded = 0;
  sigaction(SIGSEGV, &earlierSegv, nullptr);
  sigaction(SIGBUS, &earlierBus, nullptr);
  return result;
}

// ---- memory ------------------------------------------------------------------------------------

bool reserve(Context& context) {
  if (context.arena != 0) return true;
  void* arena = mmap(nullptr, arenaBytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED) return false;
  context.arena = reinterpret_cast<uint64_t>(arena);
  context.used = pageBytes;
  return true;
}

void* at(uint64_t address) { return reinterpret_cast<void*>(address); }

uint64_t roundUp(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

/// The buffer ends, its length rounded up to what kernels may count on, where its last page does.
uint64_t allocate(Context& context, uint64_t bytes) {
  const uint64_t room = roundUp(bytes, alignBytes);
  const uint64_t pages = roundUp(room, pageBytes) / pageBytes;
  const uint64_t first = context.arena + context.used;
  if (context.used + (pages + 1) * pageBytes > arenaBytes) return 0;
  if (mprotect(at(first), pages * pageBytes, PROT_READ | PROT_WRITE) != 0) return 0;
  context.used += (pages + 1) * pageBytes;
  const Buffer buffer{first + pages * pageBytes - room, bytes, first, pages};
  std::memset(at(first), canary, pages * pageBytes);
  auto* words = static_cast<uint32_t*>(at(buffer.address));
  std::fill(words, words + bytes / 4, poison);
  std::memset(at(buffer.address + bytes / 4 * 4), 0xff, bytes % 4);
  context.buffers[buffer.address] = buffer;
  context.liveBytes += room;
  return buffer.address;
}

/// Whether nothing was written round the buffer within its own pages.
bool intact(const Buffer& buffer) {
  const auto* start = static_cast<const uint8_t*>(at(buffer.first));
  const auto* end = start + buffer.pages * pageBytes;
  const auto clean = [](const uint8_t* from, const uint8_t* to) {
    return std::all_of(from, to, [](uint8_t byte) { return byte == canary; });
  };
  const auto* data = static_cast<const uint8_t*>(at(buffer.address));
  return clean(start, data) && clean(data + buffer.bytes, end);
}

int32_t checkIntact(const Buffer& buffer, const std::string& when) {
  if (intact(buffer)) return success;
  state->fault = when + ": something was written beside a buffer of " +
                 std::to_string(buffer.bytes) + " bytes";
  return illegalAddress;
}

int32_t release(Context& context, uint64_t address) {
  const auto found = context.buffers.find(address);
  if (found == context.buffers.end()) {
    state->fault = "memory was freed that is not a buffer's";
    return illegalAddress;
  }
  const Buffer buffer = found->second;
  const int32_t result = checkIntact(buffer, "when it was freed");
  madvise(at(buffer.first), buffer.pages * pageBytes, MADV_DONTNEED);
  mprotect(at(buffer.first), buffer.pages * pageBytes, PROT_NONE);
  context.liveBytes -= roundUp(buffer.bytes, alignBytes);
  context.buffers.erase(found);
  return result;
}

bool inDevice(const Context& context, uint64_t address, uint64_t bytes) {
  const auto next = context.buffers.upper_bound(address);
  if (next == context.buffers.begin()) return false;
  const Buffer& buffer = std::prev(next)->second;
  return address + bytes <= buffer.address + buffer.bytes;
}

bool inHost(uint64_t address, uint64_t bytes) {
  const auto next = state->host.upper_bound(address);
  if (next == state->host.begin()) return false;
  const auto& [start, memory] = *std::prev(next);
  return address + bytes <= start + memory.bytes;
}

// ---- streams -----------------------------------------------------------------------------------

int32_t fail(Context& context, int32_t result) {
  if (result != success && context.failure == success) context.failure = result;
  return context.failure;
}

/// Runs what is queued until `done`, or until nothing is left.
int32_t drain(Stream& stream, const std::function<bool()>& done) {
  // Waiting in a circle cannot end on a GPU either.
  if (stream.running) return fail(*stream.context, launchFailed);
  stream.running = true;
  while (!stream.queue.empty() && !done() && stream.context->failure == success) {
    const auto work = std::move(stream.queue.front());
    stream.queue.pop_front();
    fail(*stream.context, work());
  }
  stream.running = false;
  return stream.context->failure;
}

int32_t drainAll(Stream& stream) {
  const int32_t result = drain(stream, [] { return false; });
  if (result != success) return result;
  for (const auto& [address, buffer] : stream.context->buffers) {
    if (fail(*stream.context, checkIntact(buffer, "when the stream was waited for")) != success) {
      break;
    }
  }
  return stream.context->failure;
}

Stream* streamOf(uint64_t handle) {
  auto* stream = reinterpret_cast<Stream*>(handle);
  return state->streams.count(stream) == 0 ? nullptr : stream;
}

/// A stream of the current context, or why not.
int32_t currentStream(uint64_t handle, Stream*& stream) {
  if (state->current == nullptr) return invalidContext;
  if (state->current->failure != success) return state->current->failure;
  stream = streamOf(handle);
  return stream == nullptr || stream->context != state->current ? invalidHandle : success;
}

// ---- kernels -----------------------------------------------------------------------------------

/// Takes away, and gives back, what the running kernel's GPU may not reach of the others.
void protectOthers(const Context& context, int protection) {
  for (const Context& other : state->contexts) {
    if (&other == &context || other.arena == 0) continue;
    const bool reachable = context.peers.count(other.ordinal) != 0 &&
                           other.poolAccess.count(context.ordinal) != 0;
    if (reachable) continue;
    for (const auto& [address, buffer] : other.buffers) {
      mprotect(at(buffer.first), buffer.pages * pageBytes, protection);
    }
  }
}

int32_t runLaunch(const Launch& launch) {
  Context& context = *launch.function->module->context;
  state->counts.kernels++;
  if (state->options.hangAt != 0 && --state->options.hangAt == 0) {
    for (;;) pause();
  }
  if (state->options.execute == 0) return success;
  if (state->options.faultAt != 0 && --state->options.faultAt == 0) {
    state->fault = launch.function->name + " was made to fail";
    return launchFailed;
  }
  std::vector<void*> params;
  for (const auto& value : launch.values) {
    params.push_back(const_cast<ParamLine*>(value.data()));
  }
  SluiceSimtLaunch shape = launch.shape;
  shape.params = params.data();
  protectOthers(context, PROT_NONE);
  const int32_t result = guard(launch.function->name, [&] {
    launch.function->run(&shape);
    return success;
  });
  protectOthers(context, PROT_READ | PROT_WRITE);
  return result;
}

/// Copies a launch's parameters, or refuses its shape as the driver would.
int32_t makeLaunch(Function* function, const uint32_t (&shape)[7], void** params,
                   std::shared_ptr<Launch>& into) {
  if (state->functions.count(function) == 0) return invalidHandle;
  const SluiceSimtParams& expected = *function->params;
  const uint64_t threads = uint64_t{shape[3]} * shape[4] * shape[5];
  const uint64_t threadsMax = expected.threadsMax == 0 ? 1024 : expected.threadsMax;
  const bool gridFits = shape[0] >= 1 && shape[0] < (uint32_t{1} << 31) && shape[1] >= 1 &&
                        shape[1] <= 65535 && shape[2] >= 1 && shape[2] <= 65535;
  if (!gridFits || threads < 1 || threads > threadsMax || shape[5] > 64) return invalidValue;
  if (shape[6] > function->dynamicShared) return invalidValue;
  if (shape[6] + expected.staticSharedBytes > sharedBytesMax) return invalidValue;
  if (expected.count > 0 && params == nullptr) return invalidValue;
  auto launch = std::make_shared<Launch>();
  launch->function = function;
  for (int i = 0; i < 3; i++) {
    launch->shape.grid[i] = shape[i];
    launch->shape.block[i] = shape[3 + i];
  }
  launch->shape.sharedBytes = shape[6];
  for (uint32_t i = 0; i < expected.count; i++) {
    std::vector<ParamLine> value((expected.bytes[i] + sizeof(ParamLine) - 1) / sizeof(ParamLine));
    std::memcpy(value.data(), params[i], expected.bytes[i]);
    launch->values.push_back(std::move(value));
  }
  into = std::move(launch);
  return success;
}

/// The last order that the dependencies allow: of nodes that could run, the one added last.
std::vector<std::shared_ptr<Launch>> lastOrder(const Graph& graph) {
  std::vector<std::shared_ptr<Launch>> order;
  std::set<const Node*> done;
  while (order.size() < graph.nodes.size()) {
    const auto ready = std::find_if(graph.nodes.rbegin(), graph.nodes.rend(), [&](const auto& node) {
      return done.count(node.get()) == 0 &&
             std::all_of(node->after.begin(), node->after.end(),
                         [&](const Node* earlier) { return done.count(earlier) != 0; });
    });
    order.push_back((*ready)->launch);
    done.insert(ready->get());
  }
  return order;
}

void reset(const char* options) {
  for (Context& context : state->contexts) {
    if (context.arena != 0) munmap(at(context.arena), arenaBytes);
  }
  for (const auto& [address, memory] : state->host) munmap(at(address), memory.bytes);
  // Handles of before stay unknown to the new state; their memory is a test's, and small.
  state = new State();
  state->options.parse(options);
  state->configured = true;
}

Context* contextOf(uint64_t handle) {
  for (Context& context : state->contexts) {
    if (reinterpret_cast<uint64_t>(&context) == handle && context.retained > 0) return &context;
  }
  return nullptr;
}

bool isDevice(int32_t ordinal) { return ordinal >= 0 && ordinal < state->options.devices; }

int32_t ready() {
  if (!state->initialized) return notInitialized;
  if (state->current == nullptr) return invalidContext;
  return state->current->failure;
}

template <typename T>
uint64_t handleOf(T* object) {
  return reinterpret_cast<uint64_t>(object);
}

}  // namespace

#ifndef SLUICE_DISGUISED
// ---- the tests' side ---------------------------------------------------------------------------

SLUICE_EXPORT void sluice_fake_reset(const char* options) { reset(options); }

/// Counts and what is still held, as JSON; the last fault in words.
SLUICE_EXPORT int32_t sluice_fake_report(char* into, uint64_t bytes) {
  int64_t buffers = 0;
  int64_t liveBytes = 0;
  for (const Context& context : state->contexts) {
    buffers += static_cast<int64_t>(context.buffers.size());
    liveBytes += static_cast<int64_t>(context.liveBytes);
  }
  const Counts& counts = state->counts;
  const size_t held = state->streams.size() + state->events.size() + state->modules.size() +
                      state->graphs.size() + state->execs.size() + state->host.size();
  return std::snprintf(
      into, bytes,
      "{\"allocations\":%lld,\"kernels\":%lld,\"graphLaunches\":%lld,\"peerCopies\":%lld,"
      "\"buffers\":%lld,\"liveBytes\":%lld,\"handles\":%zu,\"fault\":\"%s\"}",
      static_cast<long long>(counts.allocations), static_cast<long long>(counts.kernels),
      static_cast<long long>(counts.graphLaunches), static_cast<long long>(counts.peerCopies),
      static_cast<long long>(buffers), static_cast<long long>(liveBytes), held,
      state->fault.c_str());
}
#endif

// ---- the driver's side -------------------------------------------------------------------------

SLUICE_EXPORT int32_t cuDriverGetVersion(int32_t* version) {
  if (!state->configured) reset(std::getenv("SLUICE_FAKE_CUDA"));
  *version = static_cast<int32_t>(state->options.version);
  return success;
}

SLUICE_EXPORT int32_t cuInit(uint32_t flags) {
  if (!state->configured) reset(std::getenv("SLUICE_FAKE_CUDA"));
  if (flags != 0) return invalidValue;
  if (state->options.devices == 0) return noDevice;
  state->initialized = true;
  return success;
}

SLUICE_EXPORT int32_t cuDeviceGetCount(int32_t* count) {
  if (!state->initialized) return notInitialized;
  *count = static_cast<int32_t>(state->options.devices);
  return success;
}

SLUICE_EXPORT int32_t cuDeviceGet(int32_t* device, int32_t ordinal) {
  if (!isDevice(ordinal)) return invalidDevice;
  *device = ordinal;
  return success;
}

SLUICE_EXPORT int32_t cuDeviceGetName(char* name, int32_t bytes, int32_t device) {
  if (!isDevice(device)) return invalidDevice;
#ifdef SLUICE_DISGUISED
  std::snprintf(name, static_cast<size_t>(bytes), "no GPU but the host");
#else
  std::snprintf(name, static_cast<size_t>(bytes), "fake GPU %d", device);
#endif
  return success;
}

SLUICE_EXPORT int32_t cuDeviceGetAttribute(int32_t* value, int32_t attribute, int32_t device) {
  if (!isDevice(device)) return invalidDevice;
  const int32_t architecture = static_cast<int32_t>(state->options.architecture);
  switch (attribute) {
    case 16: *value = 4; return success;  // multiprocessors
    case 38: *value = 64 << 10; return success;  // cache
    case 75: *value = architecture / 10; return success;
    case 76: *value = architecture % 10; return success;
    case 97: *value = sharedBytesMax; return success;
    default: return invalidValue;
  }
}

SLUICE_EXPORT int32_t cuDeviceTotalMem_v2(uint64_t* bytes, int32_t device) {
  if (!isDevice(device)) return invalidDevice;
  *bytes = static_cast<uint64_t>(state->options.memoryBytes);
  return success;
}

SLUICE_EXPORT int32_t cuDeviceCanAccessPeer(int32_t* can, int32_t device, int32_t peer) {
  if (!isDevice(device) || !isDevice(peer)) return invalidDevice;
  *can = device != peer && state->options.peers != 0 ? 1 : 0;
  return success;
}

SLUICE_EXPORT int32_t cuDevicePrimaryCtxRetain(uint64_t* context, int32_t device) {
  if (!state->initialized) return notInitialized;
  if (!isDevice(device)) return invalidDevice;
  Context& primary = state->contexts[device];
  primary.ordinal = device;
  if (!reserve(primary)) return outOfMemory;
  primary.retained++;
  *context = handleOf(&primary);
  return primary.failure;
}

SLUICE_EXPORT int32_t cuDevicePrimaryCtxRelease_v2(int32_t device) {
  if (!isDevice(device) || state->contexts[device].retained == 0) return invalidContext;
  Context& primary = state->contexts[device];
  primary.retained--;
  if (primary.retained == 0 && state->current == &primary) state->current = nullptr;
  return success;
}

SLUICE_EXPORT int32_t cuCtxSetCurrent(uint64_t context) {
  Context* found = contextOf(context);
  if (found == nullptr && context != 0) return invalidContext;
  state->current = found;
  return success;
}

SLUICE_EXPORT int32_t cuCtxEnablePeerAccess(uint64_t peer, uint32_t flags) {
  if (const int32_t result = ready(); result != success) return result;
  Context* other = contextOf(peer);
  if (other == nullptr || other == state->current || flags != 0) return invalidContext;
  if (state->options.peers == 0) return 217;
  return state->current->peers.insert(other->ordinal).second ? success : peerAccessAlreadyEnabled;
}

SLUICE_EXPORT int32_t cuMemGetInfo_v2(uint64_t* free, uint64_t* total) {
  if (const int32_t result = ready(); result != success) return result;
  *total = static_cast<uint64_t>(state->options.memoryBytes);
  *free = *total - state->current->liveBytes;
  return success;
}

/// A pool's handle is its context's.
SLUICE_EXPORT int32_t cuDeviceGetDefaultMemPool(uint64_t* pool, int32_t device) {
  if (!isDevice(device)) return invalidDevice;
  *pool = handleOf(&state->contexts[device]);
  return success;
}

SLUICE_EXPORT int32_t cuMemPoolSetAttribute(uint64_t pool, int32_t, void* value) {
  return contextOf(pool) == nullptr || value == nullptr ? invalidValue : success;
}

struct MemAccess {
  int32_t locationType;
  int32_t location;
  int32_t flags;
};

SLUICE_EXPORT int32_t cuMemPoolSetAccess(uint64_t pool, const MemAccess* access, uint64_t count) {
  Context* context = contextOf(pool);
  if (context == nullptr) return invalidValue;
  for (uint64_t i = 0; i < count; i++) {
    if (access[i].locationType != 1 || !isDevice(access[i].location)) return invalidValue;
    if (access[i].flags == 3) context->poolAccess.insert(access[i].location);
    if (access[i].flags == 0) context->poolAccess.erase(access[i].location);
  }
  return success;
}

SLUICE_EXPORT int32_t cuMemPoolTrimTo(uint64_t pool, uint64_t) {
  return contextOf(pool) == nullptr ? invalidValue : ready();
}

SLUICE_EXPORT int32_t cuMemAllocAsync(uint64_t* address, uint64_t bytes, uint64_t handle) {
  Stream* stream = nullptr;
  if (const int32_t result = currentStream(handle, stream); result != success) return result;
  if (bytes == 0) return invalidValue;
  Context& context = *stream->context;
  state->counts.allocations++;
  if (state->options.oomAt != 0 && --state->options.oomAt == 0) return outOfMemory;
  // Freed memory counts as used until the stream has come to its freeing.
  const uint64_t limit = static_cast<uint64_t>(state->options.memoryBytes);
  if (context.liveBytes + roundUp(bytes, alignBytes) > limit) return outOfMemory;
  *address = allocate(context, bytes);
  return *address == 0 ? outOfMemory : success;
}

SLUICE_EXPORT int32_t cuMemFreeAsync(uint64_t address, uint64_t handle) {
  Stream* stream = nullptr;
  if (const int32_t result = currentStream(handle, stream); result != success) return result;
  Context* context = stream->context;
  if (context->buffers.count(address) == 0) return invalidValue;
  stream->queue.push_back([context, address] { return release(*context, address); });
  return success;
}

SLUICE_EXPORT int32_t cuMemHostAlloc(uint64_t* address, uint64_t bytes, uint32_t) {
  if (const int32_t result = ready(); result != success) return result;
  if (bytes == 0) return invalidValue;
  const uint64_t rounded = roundUp(bytes, pageBytes);
  void* memory = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return outOfMemory;
  std::memset(memory, 0xff, rounded);
  *address = reinterpret_cast<uint64_t>(memory);
  state->host[*address] = {bytes};
  return success;
}

SLUICE_EXPORT int32_t cuMemFreeHost(uint64_t address) {
  const auto found = state->host.find(address);
  if (found == state->host.end()) return invalidValue;
  // Copies still queued on it fault: the address stays reserved, without memory.
  mprotect(at(address), roundUp(found->second.bytes, pageBytes), PROT_NONE);
  madvise(at(address), roundUp(found->second.bytes, pageBytes), MADV_DONTNEED);
  state->host.erase(found);
  return success;
}

/// A copy that both sides agree to when it is asked for, and that faults if one is gone by then.
static int32_t queueCopy(Stream* stream, const char* what, uint64_t to, uint64_t from,
                         uint64_t bytes) {
  stream->queue.push_back([=]() -> int32_t {
    return guard(what, [=]() -> int32_t {
      std::memcpy(at(to), at(from), bytes);
      return success;
    });
  });
  return success;
}

SLUICE_EXPORT int32_t cuMemcpyHtoDAsync_v2(uint64_t to, uint64_t from, uint64_t bytes,
                                           uint64_t handle) {
  Stream* stream = nullptr;
  if (const int32_t result = currentStream(handle, stream); result != success) return result;
  if (!inDevice(*stream->context, to, bytes) || !inHost(from, bytes)) return invalidValue;
  return queueCopy(stream, "a copy to the GPU", to, from, bytes);
}

SLUICE_EXPORT int32_t cuMemcpyDtoHAsync_v2(uint64_t to, uint64_t from, uint64_t bytes,
                                           uint64_t handle) {
  Stream* stream = nullptr;
  if (const int32_t result = currentStream(handle, stream); result != success) return result;
  if (!inDevice(*stream->context, from, bytes) || !inHost(to, bytes)) return invalidValue;
  return queueCopy(stream, "a copy from the GPU", to, from, bytes);
}

SLUICE_EXPORT int32_t cuMemcpyPeerAsync(uint64_t to, uint64_t toContext, uint64_t from,
                                        uint64_t fromContext, uint64_t bytes, uint64_t handle) {
  Stream* stream = nullptr;
  if (const int32_t result = currentStream(handle, stream); result != success) return result;
  const Context* target = contextOf(toContext);
  const Context* source = contextOf(fromContext);
  if (target == nullptr || source == nullptr) return invalidContext;
  if (!inDevice(*target, to, bytes) || !inDevice(*source, from, bytes)) return invalidValue;
  state->counts.peerCopies++;
  return queueCopy(stream, "a copy between GPUs", to, from, bytes);
}

SLUICE_EXPORT int32_t cuStreamCreate(uint64_t* handle, uint32_t) {
  if (const int32_t result = ready(); result != success) return result;
  auto* stream = new Stream();
  stream->context = state->current;
  state->streams.insert(stream);
  *handle = handleOf(stream);
  return success;
}

SLUICE_EXPORT int32_t cuStreamDestroy_v2(uint64_t handle) {
  Stream* stream = streamOf(handle);
  if (stream == nullptr) return invalidHandle;
  const int32_t result = drainAll(*stream);
  state->streams.erase(stream);
  delete stream;
  return result;
}

SLUICE_EXPORT int32_t cuStreamSynchronize(uint64_t handle) {
  Stream* stream = nullptr;
  if (const int32_t result = currentStream(handle, stream); result != success) return result;
  return drainAll(*stream);
}

static Event* eventOf(uint64_t handle) {
  auto* event = reinterpret_cast<Event*>(handle);
  return state->events.count(event) == 0 ? nullptr : event;
}

/// Runs the stream an event was recorded in up to its `count`-th recording.
static int32_t reach(Event& event, uint64_t count) {
  if (event.reached >= count) return success;
  return drain(*event.stream, [&] { return event.reached >= count; });
}

SLUICE_EXPORT int32_t cuStreamWaitEvent(uint64_t handle, uint64_t eventHandle, uint32_t) {
  Stream* stream = nullptr;
  if (const int32_t result = currentStream(handle, stream); result != success) return result;
  Event* event = eventOf(eventHandle);
  if (event == nullptr) return invalidHandle;
  const uint64_t count = event->recorded;
  stream->queue.push_back([event, count] { return reach(*event, count); });
  return success;
}

SLUICE_EXPORT int32_t cuEventCreate(uint64_t* handle, uint32_t) {
  if (const int32_t result = ready(); result != success) return result;
  auto* event = new Event();
  event->context = state->current;
  state->events.insert(event);
  *handle = handleOf(event);
  return success;
}

SLUICE_EXPORT int32_t cuEventDestroy_v2(uint64_t handle) {
  // Its memory stays: a queued wait may still look at it.
  return state->events.erase(reinterpret_cast<Event*>(handle)) == 1 ? success : invalidHandle;
}

SLUICE_EXPORT int32_t cuEventRecord(uint64_t eventHandle, uint64_t handle) {
  Stream* stream = nullptr;
  if (const int32_t result = currentStream(handle, stream); result != success) return result;
  Event* event = eventOf(eventHandle);
  if (event == nullptr || event->context != stream->context) return invalidHandle;
  event->stream = stream;
  const uint64_t count = ++event->recorded;
  stream->queue.push_back([event, count] {
    event->reached = count;
    event->time = std::chrono::steady_clock::now();
    return success;
  });
  return success;
}

SLUICE_EXPORT int32_t cuEventSynchronize(uint64_t handle) {
  if (const int32_t result = ready(); result != success) return result;
  Event* event = eventOf(handle);
  return event == nullptr ? invalidHandle : reach(*event, event->recorded);
}

/// Nothing here takes the time it takes on a GPU: only in disguise is there a clock, the host's.
SLUICE_EXPORT int32_t cuEventElapsedTime(float* milliseconds, uint64_t begin, uint64_t end) {
#ifdef SLUICE_DISGUISED
  const Event* from = eventOf(begin);
  const Event* to = eventOf(end);
  if (from == nullptr || to == nullptr) return invalidHandle;
  if (from->reached < from->recorded || to->reached < to->recorded) return notReady;
  *milliseconds = std::chrono::duration<float, std::milli>(to->time - from->time).count();
  return success;
#else
  static_cast<void>(milliseconds), static_cast<void>(begin), static_cast<void>(end);
  return notSupported;
#endif
}

/// The library of host kernels that an image stands for; empty: none.
static std::string libraryOf(const char* image) {
#ifdef SLUICE_DISGUISED
  uint32_t magic = 0;
  std::memcpy(&magic, image, sizeof magic);
  const char* library = std::getenv("SLUICE_SIMT_LIBRARY");
  // What a fatbin begins with.
  return magic == 0xba55ed50 && library != nullptr ? library : "";
#else
  const std::string text(image, strnlen(image, 4096));
  const std::string header = "sluice simt 1\n";
  if (text.compare(0, header.size(), header) != 0) return "";
  const std::string path = text.substr(header.size());
  return path.substr(0, path.find('\n'));
#endif
}

SLUICE_EXPORT int32_t cuModuleLoadData(uint64_t* handle, const char* image) {
  if (const int32_t result = ready(); result != success) return result;
  const std::string path = libraryOf(image);
  if (path.empty()) return invalidImage;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    state->fault = dlerror();
    return invalidImage;
  }
  auto* module = new Module{state->current, library};
  state->modules.insert(module);
  *handle = handleOf(module);
  return success;
}

SLUICE_EXPORT int32_t cuModuleUnload(uint64_t handle) {
  if (const int32_t result = ready(); result != success) return result;
  auto* module = reinterpret_cast<Module*>(handle);
  if (state->modules.erase(module) == 0) return invalidHandle;
  for (auto it = state->functions.begin(); it != state->functions.end();) {
    it = (*it)->module == module ? state->functions.erase(it) : std::next(it);
  }
  // The library stays open: its code may be on a stack that a fault has left.
  return success;
}

SLUICE_EXPORT int32_t cuModuleGetFunction(uint64_t* handle, uint64_t moduleHandle,
                                          const char* name) {
  if (const int32_t result = ready(); result != success) return result;
  auto* module = reinterpret_cast<Module*>(moduleHandle);
  if (state->modules.count(module) == 0) return invalidHandle;
  const std::string symbol = std::string("sluice_simt_") + name;
  void* run = dlsym(module->library, symbol.c_str());
  void* params = dlsym(module->library, (symbol + "_params").c_str());
  if (run == nullptr || params == nullptr) return notFound;
  auto* function = new Function();
  function->module = module;
  function->name = name;
  function->params = static_cast<const SluiceSimtParams*>(params);
  function->run = reinterpret_cast<void (*)(const SluiceSimtLaunch*)>(run);
  state->functions.insert(function);
  *handle = handleOf(function);
  return success;
}

/// Matrices of bytes alone, in the swizzles of rows as long as the box is wide.
SLUICE_EXPORT int32_t cuTensorMapEncodeTiled(SluiceTensorMap* map, uint32_t type, uint32_t rank,
                                             uint64_t address, const uint64_t* extents,
                                             const uint64_t* strides, const uint32_t* box,
                                             const uint32_t* steps, uint32_t interleave,
                                             uint32_t swizzle, uint32_t, uint32_t fill) {
  const int32_t result = ready();
  if (result != success) return result;
  const bool known = type == 0 && rank == 2 && interleave == 0 && swizzle <= 3 && fill == 0;
  const bool aligned = reinterpret_cast<uint64_t>(map) % 64 == 0 && address % 16 == 0 &&
                       strides[0] % 16 == 0 && box[0] % 16 == 0;
  const bool fits = extents[0] >= 1 && extents[1] >= 1 && strides[0] >= extents[0] && box[0] >= 1 &&
                    box[0] <= 256 && box[1] >= 1 && box[1] <= 256 && steps[0] == 1 &&
                    steps[1] == 1 && (swizzle == 0 || box[0] <= uint32_t{16} << swizzle);
  if (!known || !aligned || !fits) return invalidValue;
  *map = {SLUICE_TENSOR_MAP_MARK, address, extents[0], extents[1], strides[0], box[0], box[1],
          swizzle, {}};
  return success;
}

SLUICE_EXPORT int32_t cuFuncSetAttribute(uint64_t handle, int32_t attribute, int32_t value) {
  if (const int32_t result = ready(); result != success) return result;
  auto* function = reinterpret_cast<Function*>(handle);
  if (state->functions.count(function) == 0) return invalidHandle;
  if (attribute != 8 || value < 0) return invalidValue;
  const uint32_t bytes = static_cast<uint32_t>(value);
  if (bytes + function->params->staticSharedBytes > sharedBytesMax) return invalidValue;
  function->dynamicShared = bytes;
  return success;
}

SLUICE_EXPORT int32_t cuLaunchKernel(uint64_t function, uint32_t gx, uint32_t gy, uint32_t gz,
                                     uint32_t bx, uint32_t by, uint32_t bz, uint32_t shared,
                                     uint64_t handle, void** params, void**) {
  Stream* stream = nullptr;
  if (const int32_t result = currentStream(handle, stream); result != success) return result;
  std::shared_ptr<Launch> launch;
  auto* kernel = reinterpret_cast<Function*>(function);
  const int32_t made = makeLaunch(kernel, {gx, gy, gz, bx, by, bz, shared}, params, launch);
  if (made != success) return made;
  if (kernel->module->context != stream->context) return invalidHandle;
  stream->queue.push_back([launch] { return runLaunch(*launch); });
  return success;
}

SLUICE_EXPORT int32_t cuGraphCreate(uint64_t* handle, uint32_t flags) {
  if (const int32_t result = ready(); result != success) return result;
  if (flags != 0) return invalidValue;
  auto* graph = new Graph();
  state->graphs.insert(graph);
  *handle = handleOf(graph);
  return success;
}

SLUICE_EXPORT int32_t cuGraphDestroy(uint64_t handle) {
  auto* graph = reinterpret_cast<Graph*>(handle);
  if (state->graphs.erase(graph) == 0) return invalidValue;
  delete graph;
  return success;
}

struct KernelNodeParams {
  uint64_t function;
  uint32_t shape[7];
  void** params;
  void** extra;
  void* kernel;
  void* context;
};
static_assert(sizeof(KernelNodeParams) == 72, "CUDA_KERNEL_NODE_PARAMS_v2");

SLUICE_EXPORT int32_t cuGraphAddKernelNode_v2(uint64_t* handle, uint64_t graphHandle,
                                              const uint64_t* dependencies, uint64_t count,
                                              const KernelNodeParams* params) {
  if (const int32_t result = ready(); result != success) return result;
  auto* graph = reinterpret_cast<Graph*>(graphHandle);
  if (state->graphs.count(graph) == 0) return invalidValue;
  auto node = std::make_unique<Node>();
  for (uint64_t i = 0; i < count; i++) {
    const auto* earlier = reinterpret_cast<const Node*>(dependencies[i]);
    const bool known = std::any_of(graph->nodes.begin(), graph->nodes.end(),
                                   [&](const auto& other) { return other.get() == earlier; });
    if (!known) return invalidValue;
    node->after.push_back(earlier);
  }
  auto* function = reinterpret_cast<Function*>(params->function);
  const int32_t made = makeLaunch(function, params->shape, params->params, node->launch);
  if (made != success) return made;
  *handle = handleOf(node.get());
  graph->nodes.push_back(std::move(node));
  return success;
}

SLUICE_EXPORT int32_t cuGraphInstantiateWithFlags(uint64_t* handle, uint64_t graphHandle,
                                                  uint64_t) {
  if (const int32_t result = ready(); result != success) return result;
  auto* graph = reinterpret_cast<Graph*>(graphHandle);
  if (state->graphs.count(graph) == 0) return invalidValue;
  auto* exec = new GraphExec{lastOrder(*graph)};
  state->execs.insert(exec);
  *handle = handleOf(exec);
  return success;
}

SLUICE_EXPORT int32_t cuGraphLaunch(uint64_t handle, uint64_t streamHandle) {
  Stream* stream = nullptr;
  if (const int32_t result = currentStream(streamHandle, stream); result != success) return result;
  auto* exec = reinterpret_cast<GraphExec*>(handle);
  if (state->execs.count(exec) == 0) return invalidHandle;
  state->counts.graphLaunches++;
  for (const auto& launch : exec->launches) {
    stream->queue.push_back([launch] { return runLaunch(*launch); });
  }
  return success;
}

SLUICE_EXPORT int32_t cuGraphExecDestroy(uint64_t handle) {
  auto* exec = reinterpret_cast<GraphExec*>(handle);
  if (state->execs.erase(exec) == 0) return invalidValue;
  delete exec;
  return success;
}
