// The boundary to JavaScript: devices and buffers are numbers, ops are words in a Float64Array.
// Plain Node-API in C: a call with integers costs 10 to 70 ns, one with objects and strings
// two microseconds.

#include <node_api.h>

#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <unordered_map>

#include "op.h"

namespace {

using sluice::Context;
using sluice::OpError;

/// Per environment (a worker thread has its own): the devices it created.
struct Instance {
  std::unordered_map<int64_t, std::unique_ptr<Context>> contexts;
  int64_t last = 0;
};

void check(napi_status status, const char* what) {
  if (status != napi_ok) throw OpError("out_of_range", std::string("the addon was called with ") + what);
}

/// Arguments of one call, at most six.
class Call {
 public:
  Call(napi_env env, napi_callback_info info) : env_(env) {
    check(napi_get_cb_info(env, info, &count_, values_, nullptr, nullptr), "no arguments");
    void* data = nullptr;
    check(napi_get_instance_data(env, &data), "no instance");
    instance_ = static_cast<Instance*>(data);
  }

  int64_t integer(size_t index) const {
    double value = 0;
    check(napi_get_value_double(env_, at(index), &value), "a value that is no number");
    return static_cast<int64_t>(value);
  }

  struct Bytes {
    std::byte* data;
    int64_t count;
  };

  Bytes typedArray(size_t index, napi_typedarray_type wanted) const {
    napi_typedarray_type type;
    size_t length = 0;
    void* data = nullptr;
    check(napi_get_typedarray_info(env_, at(index), &type, &length, &data, nullptr, nullptr),
          "a value that is no typed array");
    if (type != wanted) throw OpError("out_of_range", "a typed array of another type was expected");
    return {static_cast<std::byte*>(data), static_cast<int64_t>(length)};
  }

  Instance& instance() const { return *instance_; }

  Context& context() const {
    const auto found = instance_->contexts.find(integer(0));
    if (found == instance_->contexts.end()) throw OpError("device_closed", "the device was closed");
    return *found->second;
  }

  napi_value number(double value) const {
    napi_value result;
    check(napi_create_double(env_, value, &result), "no room for a number");
    return result;
  }

  napi_env env() const { return env_; }

 private:
  napi_value at(size_t index) const {
    if (index >= count_) throw OpError("out_of_range", "the addon was called with too few arguments");
    return values_[index];
  }

  napi_env env_;
  size_t count_ = 6;
  napi_value values_[6];
  Instance* instance_;
};

/// create(threads, isa, numerics): a device's number. isa < 0 takes the best there is.
napi_value create(const Call& call) {
  const auto best = sluice::bestIsa();
  const auto asked = call.integer(1);
  const auto isa = asked < 0 || asked > int(best) ? best : static_cast<sluice::Isa>(asked);
  const auto numerics = static_cast<sluice::Numerics>(call.integer(2));
  Instance& instance = call.instance();
  instance.last++;
  instance.contexts.emplace(instance.last, std::make_unique<Context>(
                                               static_cast<int>(call.integer(0)), isa, numerics));
  return call.number(static_cast<double>(instance.last));
}

/// destroy(device)
napi_value destroy(const Call& call) {
  call.context();
  call.instance().contexts.erase(call.integer(0));
  return nullptr;
}

/// alloc(device, bytes): a handle
napi_value alloc(const Call& call) {
  return call.number(static_cast<double>(call.context().buffers.alloc(call.integer(1))));
}

/// free(device, handle)
napi_value release(const Call& call) {
  call.context().buffers.free(call.integer(1));
  return nullptr;
}

/// write(device, handle, offset, bytes)
napi_value write(const Call& call) {
  const auto source = call.typedArray(3, napi_uint8_array);
  std::byte* target = call.context().buffers.at(call.integer(1), call.integer(2), source.count);
  if (source.count > 0) std::memcpy(target, source.data, source.count);
  return nullptr;
}

/// read(device, handle, offset, into)
napi_value read(const Call& call) {
  const auto target = call.typedArray(3, napi_uint8_array);
  const std::byte* source = call.context().buffers.at(call.integer(1), call.integer(2), target.count);
  if (target.count > 0) std::memcpy(target.data, source, target.count);
  return nullptr;
}

/// run(device, words, count)
napi_value run(const Call& call) {
  const auto words = call.typedArray(1, napi_float64_array);
  const int64_t count = call.integer(2);
  if (count < 0 || count > words.count) {
    throw OpError("out_of_range", std::to_string(count) + " words are more than were given");
  }
  sluice::runWords(call.context(), reinterpret_cast<const double*>(words.data), count);
  return nullptr;
}

/// memory(device, into): allocated and peak bytes, and the number of buffers
napi_value memory(const Call& call) {
  const auto into = call.typedArray(1, napi_float64_array);
  if (into.count < 3) throw OpError("out_of_range", "memory is three numbers");
  const sluice::Buffers& buffers = call.context().buffers;
  double* numbers = reinterpret_cast<double*>(into.data);
  numbers[0] = static_cast<double>(buffers.allocatedBytes());
  numbers[1] = static_cast<double>(buffers.peakBytes());
  numbers[2] = static_cast<double>(buffers.count());
  return nullptr;
}

/// threads(device): how many run its ops
napi_value threads(const Call& call) { return call.number(call.context().pool.threads()); }

/// isa(device): the instruction set's name
napi_value isa(const Call& call) {
  napi_value result;
  const char* name = sluice::isaName(call.context().isa);
  check(napi_create_string_utf8(call.env(), name, NAPI_AUTO_LENGTH, &result), "no room for a name");
  return result;
}

/// ops(): names of the ops, an op's number being its index
napi_value ops(const Call& call) {
  napi_value names;
  check(napi_create_array(call.env(), &names), "no room for a list");
  uint32_t index = 0;
  for (const sluice::OpEntry& entry : sluice::opTable()) {
    napi_value name;
    check(napi_create_string_utf8(call.env(), entry.name, NAPI_AUTO_LENGTH, &name), "no room");
    check(napi_set_element(call.env(), names, index++, name), "no room for a list");
  }
  return names;
}

/// Every failure leaves as a JavaScript error with a code; nothing may unwind into Node.
template <napi_value (*function)(const Call&)>
napi_value guarded(napi_env env, napi_callback_info info) {
  try {
    return function(Call(env, info));
  } catch (const OpError& error) {
    napi_throw_error(env, error.code(), error.what());
  } catch (const std::exception& error) {
    napi_throw_error(env, "device_unavailable", error.what());
  }
  return nullptr;
}

template <napi_value (*function)(const Call&)>
constexpr napi_property_descriptor method(const char* name) {
  return {name, nullptr, guarded<function>, nullptr, nullptr, nullptr, napi_enumerable, nullptr};
}

}  // namespace

NAPI_MODULE_INIT() {
  const auto drop = [](napi_env, void* data, void*) { delete static_cast<Instance*>(data); };
  if (napi_set_instance_data(env, new Instance(), drop, nullptr) != napi_ok) return nullptr;
  const napi_property_descriptor methods[] = {
      method<create>("create"), method<destroy>("destroy"), method<alloc>("alloc"),
      method<release>("free"),  method<write>("write"),     method<read>("read"),
      method<run>("run"),       method<memory>("memory"),   method<threads>("threads"),
      method<isa>("isa"),       method<ops>("ops"),
  };
  if (napi_define_properties(env, exports, std::size(methods), methods) != napi_ok) return nullptr;
  return exports;
}
