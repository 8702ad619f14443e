// The addon's functions, but for those of groups of processes (collectives/group_functions.cc).

#include <cmath>
#include <unordered_set>

#include "environment.h"

namespace grpo_native {

Environment::Environment(Napi::Env env, Napi::Object exports) {
  mailbox_ = Mailbox::create(env, on_message, this);
  if (!mailbox_) throw Napi::Error::New(env, "The addon could not be set up in this environment");
  // Hooks run in reverse order: the threads end before the mailbox and this object go away.
  napi_add_env_cleanup_hook(
      env, [](void* self) { static_cast<Environment*>(self)->stop_all(); }, this);
  define<&Environment::configure>(exports, "configure");
  define<&Environment::list_operations>(exports, "operations");
  define<&Environment::open>(exports, "open");
  define<&Environment::allocate>(exports, "allocate");
  define<&Environment::adopt>(exports, "adopt");
  define<&Environment::release>(exports, "release");
  define<&Environment::write>(exports, "write");
  define<&Environment::read>(exports, "read");
  define<&Environment::run>(exports, "run");
  define<&Environment::record>(exports, "record");
  define<&Environment::replay>(exports, "replay");
  define<&Environment::release_recording>(exports, "releaseRecording");
  define<&Environment::recording_statistics>(exports, "recordingStatistics");
  define<&Environment::synchronize>(exports, "synchronize");
  define<&Environment::memory>(exports, "memory");
  define<&Environment::close>(exports, "close");
  define<&Environment::open_group>(exports, "openGroup");
  define<&Environment::connect_group>(exports, "connectGroup");
  define<&Environment::start_collective>(exports, "startCollective");
  define<&Environment::wait_collective>(exports, "waitCollective");
  define<&Environment::abort_group>(exports, "abortGroup");
  define<&Environment::group_failure>(exports, "groupFailure");
  define<&Environment::group_statistics>(exports, "groupStatistics");
  define<&Environment::close_group>(exports, "closeGroup");
  define<&Environment::release_group>(exports, "releaseGroup");
  define<&Environment::stop>(exports, "stop");
}

// An engine may be waiting for a collective: the groups are told first.
void Environment::stop_all() {
  for (auto& [id, open] : groups_) open.group->abort("the process is ending");
  engines_.clear();
  groups_.clear();
}

Napi::Value Environment::stop(const Napi::CallbackInfo& info) {
  stop_all();
  return info.Env().Undefined();
}

template <Environment::Method method>
Napi::Value Environment::call(const Napi::CallbackInfo& info) {
  return (static_cast<Environment*>(info.Data())->*method)(info);
}

template <Environment::Method method>
void Environment::define(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<&Environment::call<method>>(exports.Env(), name, this));
}

// ---- promises and errors --------------------------------------------------------------------------------------------

uint64_t Environment::wait(Napi::Env env, Pending pending) {
  if (pending_.empty()) mailbox_->keep_alive(env, true);
  pending_.emplace(++last_request_, std::move(pending));
  return last_request_;
}

void Environment::on_message(napi_env raw, void* context, const Message& message) {
  auto* self = static_cast<Environment*>(context);
  const Napi::Env env(raw);
  const Napi::HandleScope scope(env);
  if (message.ended_engine) {
    self->engines_.erase(message.ended_engine);
    self->kept_.erase(message.ended_engine);
  }
  if (const auto kept = self->kept_.find(message.freed_engine); kept != self->kept_.end()) {
    kept->second.erase(message.freed_storage);
  }
  if (message.ended_group) self->groups_.erase(message.ended_group);
  const auto found = self->pending_.find(message.request);
  if (found == self->pending_.end()) return;
  Pending pending = std::move(found->second);
  self->pending_.erase(found);
  if (self->pending_.empty()) self->mailbox_->keep_alive(env, false);
  try {
    self->settle(env, pending, message);
  } catch (const Napi::Error&) {
    // A worker that is being terminated runs no JavaScript any more, and nobody waits for the promise.
  }
}

void Environment::settle(Napi::Env env, Pending& pending, const Message& message) {
  if (message.failure) {
    pending.deferred.Reject(error(env, message.failure->code, message.failure->message).Value());
  } else if (pending.engine || pending.group) {
    Napi::Object answer = Napi::Object::New(env);
    if (pending.engine) {
      answer.Set("engine", pending.engine);
      answer.Set("description", message.description);
      answer.Set("deviceCount", message.device_count);
    } else {
      answer.Set("group", pending.group);
      const auto* bytes = reinterpret_cast<const uint8_t*>(message.bytes.data());
      if (message.has_bytes) answer.Set("address", Napi::Buffer<uint8_t>::Copy(env, bytes, message.bytes.size()));
    }
    Napi::Array attempts = Napi::Array::New(env);
    for (const Attempt& attempt : message.attempts) {
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("path", attempt.path);
      entry.Set("stage", attempt.stage);
      entry.Set("message", attempt.message);
      attempts.Set(attempts.Length(), entry);
    }
    answer.Set("attempts", attempts);
    pending.deferred.Resolve(answer);
  } else {
    pending.deferred.Resolve(pending.value.IsEmpty() ? env.Undefined() : pending.value.Value());
  }
}

Napi::Error Environment::error(Napi::Env env, const char* code, const std::string& message) {
  const Napi::Value value = make_error_.Call({Napi::String::New(env, code), Napi::String::New(env, message)});
  return Napi::Error(env, value);
}

Engine& Environment::engine(const Napi::CallbackInfo& info) {
  const auto found = engines_.find(info[0].As<Napi::Number>().Uint32Value());
  if (found == engines_.end() || found->second->stopped()) throw error(info.Env(), "GRPO_DISPOSED", "A device");
  return *found->second;
}

Storage& Environment::storage(Napi::Env env, Engine& engine, double id) {
  Storage* storage = engine.find(id);
  if (!storage) throw error(env, "GRPO_DISPOSED", "Storage " + std::to_string(static_cast<int64_t>(id)));
  return *storage;
}

// The garbage collector hears of device memory where somebody waits for values: what came and went in between, as all
// activations of a training step do, would only make it search for tensors that were forgotten.
void Environment::account(Napi::Env env, int64_t bytes) {
  unreported_bytes_ += bytes;
  if (std::abs(unreported_bytes_) > kUnreportedBytes) report_memory(env);
}

void Environment::report_memory(Napi::Env env) {
  if (unreported_bytes_ != 0) Napi::MemoryManagement::AdjustExternalMemory(env, unreported_bytes_);
  unreported_bytes_ = 0;
}

// ---- functions ------------------------------------------------------------------------------------------------------

// configure(makeError, accesses): how errors are made, and for each operation the bit masks of the tensors that it
// reads and writes, one after the other.
Napi::Value Environment::configure(const Napi::CallbackInfo& info) {
  make_error_ = Napi::Persistent(info[0].As<Napi::Function>());
  const auto masks = info[1].As<Napi::Uint32Array>();
  if (masks.ElementLength() != 2 * operations().size()) {
    throw error(info.Env(), "GRPO_INVALID_ARGUMENT",
                "the addon was built from another list of operations; build it again");
  }
  accesses_.clear();
  for (size_t i = 0; i < operations().size(); ++i) accesses_.push_back({masks[2 * i], masks[2 * i + 1]});
  return info.Env().Undefined();
}

// operations(): [{ name, tensors: [name], scalars: [name] }]
Napi::Value Environment::list_operations(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto names = [&](std::span<const char* const> from) {
    Napi::Array to = Napi::Array::New(env, from.size());
    for (size_t i = 0; i < from.size(); ++i) to.Set(i, from[i]);
    return to;
  };
  Napi::Array list = Napi::Array::New(env);
  for (const Operation& operation : operations()) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", operation.name);
    entry.Set("tensors", names(operation.tensors));
    entry.Set("scalars", names(operation.scalars));
    list.Set(list.Length(), entry);
  }
  return list;
}

// open(kind, ordinal, options, libraries): Promise<{ engine, description, deviceCount, attempts }>. An empty
// description: the device could not be opened (or, with an ordinal below 0, was only counted); the engine is then gone.
Napi::Value Environment::open(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  EngineOptions options;
  options.kind = info[0].As<Napi::String>().Utf8Value();
  options.ordinal = info[1].As<Napi::Number>().Int32Value();
  options.backend_options = info[2].As<Napi::String>().Utf8Value();
  const auto libraries = info[3].As<Napi::Array>();
  for (uint32_t i = 0; i < libraries.Length(); ++i) {
    options.libraries.push_back(libraries.Get(i).As<Napi::String>().Utf8Value());
  }
  const auto deferred = Napi::Promise::Deferred::New(env);
  const uint32_t id = ++last_engine_;
  const uint64_t request = wait(env, {deferred, {}, id});
  engines_.emplace(id, std::make_unique<Engine>(id, std::move(options), mailbox_, request));
  return deferred.Promise();
}

// allocate(engine, bytes): storage
Napi::Value Environment::allocate(const Napi::CallbackInfo& info) {
  Engine& on = engine(info);
  const double bytes = info[1].As<Napi::Number>().DoubleValue();
  if (!(bytes >= 0 && bytes <= kLargestInteger)) {
    throw error(info.Env(), "GRPO_INVALID_ARGUMENT", "a tensor of " + std::to_string(bytes) + " bytes");
  }
  account(info.Env(), static_cast<int64_t>(bytes));
  return Napi::Number::New(info.Env(), on.allocate(static_cast<size_t>(bytes)));
}

// A stream of somebody else: an address, or undefined for none.
std::optional<void*> Environment::stream(Napi::Env env, Napi::Value value) {
  if (value.IsUndefined()) return {};
  bool lossless = false;
  const uint64_t address = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) throw error(env, "GRPO_INVALID_ARGUMENT", "a stream that is not an address");
  return reinterpret_cast<void*>(address);
}

// adopt(engine, pointer, bytes, stream, keepAlive): storage. The last two may be undefined.
Napi::Value Environment::adopt(const Napi::CallbackInfo& info) {
  Engine& on = engine(info);
  bool lossless = false;
  const uint64_t address = info[1].As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless || address == 0) throw error(info.Env(), "GRPO_INVALID_ARGUMENT", "a pointer that is not an address");
  const auto bytes = static_cast<size_t>(info[2].As<Napi::Number>().Int64Value());
  const Napi::Value keep = info[4];
  const double storage =
      on.adopt(reinterpret_cast<void*>(address), bytes, stream(info.Env(), info[3]), !keep.IsUndefined());
  if (!keep.IsUndefined()) {
    kept_[info[0].As<Napi::Number>().Uint32Value()].emplace(static_cast<uint64_t>(storage),
                                                            Napi::Reference<Napi::Value>::New(keep, 1));
  }
  return Napi::Number::New(info.Env(), storage);
}

// release(engine, storage)
Napi::Value Environment::release(const Napi::CallbackInfo& info) {
  const size_t bytes = engine(info).release(info[1].As<Napi::Number>().DoubleValue());
  account(info.Env(), -static_cast<int64_t>(bytes));
  return info.Env().Undefined();
}

// Whether [offset, offset + bytes) lies inside the storage.
bool inside(const Storage& storage, double offset, double bytes) {
  return offset >= 0 && bytes >= 0 && offset == std::floor(offset) &&
         offset + bytes <= static_cast<double>(storage.bytes);
}

// The bytes of a typed array, also one over shared memory.
const void* Environment::bytes_of(Napi::Env env, Napi::Value view, size_t& bytes) {
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(env, view, &type, &length, &data, nullptr, nullptr) != napi_ok) {
    throw error(env, "GRPO_INVALID_ARGUMENT", "data that is not a typed array");
  }
  bytes = view.As<Napi::TypedArray>().ByteLength();
  return data;
}

// write(engine, storage, byteOffset, view)
Napi::Value Environment::write(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Engine& on = engine(info);
  Storage& to = storage(env, on, info[1].As<Napi::Number>().DoubleValue());
  const double offset = info[2].As<Napi::Number>().DoubleValue();
  size_t bytes = 0;
  const void* data = bytes_of(env, info[3], bytes);
  if (!inside(to, offset, static_cast<double>(bytes))) {
    throw error(env, "GRPO_INVALID_ARGUMENT", "write: bytes outside the tensor's memory");
  }
  on.write(&to, static_cast<size_t>(offset), data, bytes);
  return env.Undefined();
}

// read(engine, storage, byteOffset, bytes): Promise<ArrayBuffer>
Napi::Value Environment::read(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Engine& on = engine(info);
  Storage& from = storage(env, on, info[1].As<Napi::Number>().DoubleValue());
  const double offset = info[2].As<Napi::Number>().DoubleValue(), bytes = info[3].As<Napi::Number>().DoubleValue();
  if (!inside(from, offset, bytes)) {
    throw error(env, "GRPO_INVALID_ARGUMENT", "read: bytes outside the tensor's memory");
  }
  // Nobody can detach the buffer before the promise hands it out, so the engine's thread fills it in place.
  auto buffer = Napi::ArrayBuffer::New(env, static_cast<size_t>(bytes));
  void* data = buffer.Data();
  const auto deferred = Napi::Promise::Deferred::New(env);
  const uint64_t request = wait(env, {deferred, Napi::Reference<Napi::Value>::New(buffer, 1)});
  report_memory(env);
  on.read(&from, static_cast<size_t>(offset), data, static_cast<size_t>(bytes), request);
  return deferred.Promise();
}

// run(engine, operation, payload): the payload is a Float64Array with kTensorFields numbers a tensor, then the scalars.
Napi::Value Environment::run(const Napi::CallbackInfo& info) {
  const auto payload = info[2].As<Napi::Float64Array>();
  Engine& on = engine(info);
  std::unique_ptr<Call> call = on.take_call();
  read_call(info.Env(), on, info[1].As<Napi::Number>().Uint32Value(), payload.Data(), payload.ElementLength(), *call);
  on.run(std::move(call));
  return info.Env().Undefined();
}

size_t Environment::read_call(Napi::Env env, Engine& on, size_t index, const double* payload, size_t length,
                              Call& call) {
  if (index >= accesses_.size()) throw error(env, "GRPO_INVALID_ARGUMENT", "an operation that does not exist");
  const Operation& operation = operations()[index];
  const size_t tensors = operation.tensors.size(), scalars = operation.scalars.size();
  if (length < tensors * kTensorFields + scalars) {
    throw error(env, "GRPO_INVALID_ARGUMENT", std::string(operation.name) + ": too few arguments");
  }
  call.operation = &operation;
  call.reads = accesses_[index].reads;
  call.writes = accesses_[index].writes;
  for (size_t i = 0; i < tensors; ++i) {
    const double* fields = payload + i * kTensorFields;
    call.tensors[i] = fields[0] != 0 ? read_tensor(env, on, fields, operation.name) : TensorArgument{};
  }
  std::memcpy(call.args + tensors * sizeof(grpo_tensor), payload + tensors * kTensorFields, scalars * sizeof(double));
  return tensors * kTensorFields + scalars;
}

// record(engine, operations, payload): recording. `operations` is a Uint32Array with a number a call, the payload holds
// what `run` takes of each, one after the other.
Napi::Value Environment::record(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Engine& on = engine(info);
  const auto indices = info[1].As<Napi::Uint32Array>();
  const auto payload = info[2].As<Napi::Float64Array>();
  std::vector<Call> calls(indices.ElementLength());
  std::unordered_set<double> storages;
  size_t at = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    const double* fields = payload.Data() + at;
    at += read_call(env, on, indices[i], fields, payload.ElementLength() - at, calls[i]);
    for (size_t t = 0; t < calls[i].operation->tensors.size(); ++t) {
      if (calls[i].tensors[t].storage) storages.insert(fields[t * kTensorFields]);
    }
  }
  return Napi::Number::New(env, on.record(std::move(calls), {storages.begin(), storages.end()}));
}

Program& Environment::program(Napi::Env env, Engine& on, double id) {
  Program* program = on.find_program(id);
  if (!program) throw error(env, "GRPO_DISPOSED", "A recording");
  return *program;
}

// replay(engine, recording)
Napi::Value Environment::replay(const Napi::CallbackInfo& info) {
  Engine& on = engine(info);
  const double id = info[1].As<Napi::Number>().DoubleValue();
  program(info.Env(), on, id);
  on.replay(id);
  return info.Env().Undefined();
}

// releaseRecording(engine, recording)
Napi::Value Environment::release_recording(const Napi::CallbackInfo& info) {
  engine(info).release_program(info[1].As<Napi::Number>().DoubleValue());
  return info.Env().Undefined();
}

// recordingStatistics(engine, recording): { replays, launches, captures, refusal }; refusal is null when there is none.
Napi::Value Environment::recording_statistics(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Program& of = program(env, engine(info), info[1].As<Napi::Number>().DoubleValue());
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("replays", of.replays.load());
  answer.Set("launches", of.launches.load());
  answer.Set("captures", of.captures.load());
  answer.Set("refusal", of.refused ? Napi::String::New(env, of.refusal) : env.Null());
  return answer;
}

// TypeScript has checked shapes and dtypes against the operation; here only what would touch memory outside the
// storage.
TensorArgument Environment::read_tensor(Napi::Env env, Engine& on, const double* fields, const char* where) {
  TensorArgument argument{};
  argument.storage = &storage(env, on, fields[0]);
  grpo_tensor& t = argument.tensor;
  const double rank = fields[3], stride = fields[4 + GRPO_MAX_RANK];
  bool valid = fields[2] >= 0 && fields[2] <= int{GRPO_I32} && rank >= 0 && rank <= GRPO_MAX_RANK;
  double rows = 1, columns = 1;
  t.dtype = valid ? static_cast<int32_t>(fields[2]) : 0;
  t.rank = valid ? static_cast<int32_t>(rank) : 0;
  for (int d = 0; d < t.rank; ++d) {
    const double length = fields[4 + d];
    valid = valid && length >= 0 && length <= kLargestInteger;
    t.shape[d] = valid ? static_cast<int64_t>(length) : 0;
    (d + 1 < t.rank ? rows : columns) *= length;
  }
  const double size = t.dtype == GRPO_F32 || t.dtype == GRPO_I32 ? 4 : 2;
  const double elements = rows == 0 || columns == 0 ? 0 : (rows - 1) * stride + columns;
  valid = valid && stride >= columns && stride <= kLargestInteger && elements <= kLargestInteger &&
          std::fmod(fields[1], size) == 0 && inside(*argument.storage, fields[1], elements * size);
  if (!valid) throw error(env, "GRPO_INVALID_ARGUMENT", std::string(where) + ": a tensor outside its memory");
  t.row_stride = static_cast<int64_t>(stride);
  argument.byte_offset = static_cast<size_t>(fields[1]);
  return argument;
}

// synchronize(engine, stream): Promise<void>. Without a stream, once all has run; with one, once it waits for all.
Napi::Value Environment::synchronize(const Napi::CallbackInfo& info) {
  Engine& on = engine(info);
  const auto deferred = Napi::Promise::Deferred::New(info.Env());
  const std::optional<void*> to = stream(info.Env(), info[1]);
  on.synchronize(wait(info.Env(), {deferred, {}}), to);
  report_memory(info.Env());
  return deferred.Promise();
}

// memory(engine): { liveBytes, reservedBytes, peakBytes }
Napi::Value Environment::memory(const Napi::CallbackInfo& info) {
  const grpo_memory memory = engine(info).memory();
  Napi::Object answer = Napi::Object::New(info.Env());
  answer.Set("liveBytes", static_cast<double>(memory.live_bytes));
  answer.Set("reservedBytes", static_cast<double>(memory.reserved_bytes));
  answer.Set("peakBytes", static_cast<double>(memory.peak_bytes));
  return answer;
}

// close(engine): returns at once; the engine's last message frees it.
Napi::Value Environment::close(const Napi::CallbackInfo& info) {
  Engine& on = engine(info);
  for (auto& [id, open] : groups_) {
    if (open.engine == info[0].As<Napi::Number>().Uint32Value()) open.group->abort("the device was closed");
  }
  on.stop();
  return info.Env().Undefined();
}

namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment(env, exports));
  return exports;
}

}  // namespace

NODE_API_MODULE(grpo, init)

}  // namespace grpo_native
