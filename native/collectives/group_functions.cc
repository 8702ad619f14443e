// The addon's functions for groups of processes.

#include "../environment.h"

namespace grpo_native {

Environment::OpenGroup& Environment::group(const Napi::CallbackInfo& info) {
  const auto found = groups_.find(info[0].As<Napi::Number>().Uint32Value());
  if (found == groups_.end()) throw error(info.Env(), "GRPO_DISPOSED", "A process group");
  return found->second;
}

// openGroup(engine, kind, rank, worldSize, timeoutSeconds, interface, libraries): Promise<{ group, address?, attempts
// }>. Without an address the group could not be opened; it is then gone.
Napi::Value Environment::open_group(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Engine& on = engine(info);
  GroupOptions options;
  options.engine = info[1].As<Napi::String>().Utf8Value();
  options.communicator.rank = info[2].As<Napi::Number>().Int32Value();
  options.communicator.world_size = info[3].As<Napi::Number>().Int32Value();
  options.communicator.timeout_seconds = info[4].As<Napi::Number>().DoubleValue();
  options.communicator.interface = info[5].As<Napi::String>().Utf8Value();
  options.communicator.device_ordinal = on.options().ordinal;
  const auto libraries = info[6].As<Napi::Array>();
  for (uint32_t i = 0; i < libraries.Length(); ++i) {
    options.libraries.push_back(libraries.Get(i).As<Napi::String>().Utf8Value());
  }
  const auto deferred = Napi::Promise::Deferred::New(env);
  const uint32_t id = ++last_group_;
  const uint64_t request = wait(env, {deferred, {}, 0, id});
  auto made = std::make_shared<Group>(id, std::move(options), mailbox_, request);
  groups_.emplace(id, OpenGroup{info[0].As<Napi::Number>().Uint32Value(), std::move(made), {}});
  return deferred.Promise();
}

// connectGroup(group, addresses): Promise<void>
Napi::Value Environment::connect_group(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  OpenGroup& on = group(info);
  std::vector<std::string> addresses;
  const auto list = info[1].As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    size_t bytes = 0;
    const void* data = bytes_of(env, list.Get(i), bytes);
    addresses.emplace_back(static_cast<const char*>(data), bytes);
  }
  const auto deferred = Napi::Promise::Deferred::New(env);
  on.group->connect(std::move(addresses), wait(env, {deferred, {}}));
  return deferred.Promise();
}

// startCollective(group, kind, op, root, count, payload): its number. The payload has the fields of the tensor that is
// read and of the one that is written, as for run().
Napi::Value Environment::start_collective(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  OpenGroup& on = group(info);
  const auto found = engines_.find(on.engine);
  if (found == engines_.end() || found->second->stopped()) throw error(env, "GRPO_DISPOSED", "A device");
  Engine& engine = *found->second;
  const auto payload = info[5].As<Napi::Float64Array>();
  if (payload.ElementLength() < 2 * kTensorFields) {
    throw error(env, "GRPO_INVALID_ARGUMENT", "a collective: too few arguments");
  }
  QueuedCollective queued;
  queued.group = on.group;
  queued.in = read_tensor(env, engine, payload.Data(), "a collective");
  queued.out = read_tensor(env, engine, payload.Data() + kTensorFields, "a collective");
  queued.collective = std::make_shared<Collective>();
  CollectiveCall& call = queued.collective->call;
  call.kind = static_cast<CollectiveKind>(info[1].As<Napi::Number>().Uint32Value());
  call.op = static_cast<ReduceOp>(info[2].As<Napi::Number>().Uint32Value());
  call.root = info[3].As<Napi::Number>().Uint32Value();
  call.count = static_cast<uint64_t>(info[4].As<Napi::Number>().Int64Value());
  call.dtype = static_cast<uint32_t>(queued.in.tensor.dtype);
  call.sequence = on.group->next_sequence();
  std::erase_if(on.collectives, [](const auto& entry) { return entry.second.expired(); });
  on.collectives.emplace(call.sequence, queued.collective);
  const auto sequence = static_cast<double>(call.sequence);
  engine.start(std::move(queued));
  return Napi::Number::New(env, sequence);
}

// waitCollective(group, number)
Napi::Value Environment::wait_collective(const Napi::CallbackInfo& info) {
  OpenGroup& on = group(info);
  const auto known = on.collectives.find(static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value()));
  const auto found = engines_.find(on.engine);
  if (known == on.collectives.end() || found == engines_.end()) return info.Env().Undefined();
  if (std::shared_ptr<Collective> collective = known->second.lock()) found->second->wait(std::move(collective));
  return info.Env().Undefined();
}

// abortGroup(group, reason)
Napi::Value Environment::abort_group(const Napi::CallbackInfo& info) {
  group(info).group->abort(info[1].As<Napi::String>().Utf8Value());
  return info.Env().Undefined();
}

// groupFailure(group): an error, or null
Napi::Value Environment::group_failure(const Napi::CallbackInfo& info) {
  const FailurePtr failure = group(info).group->failure();
  return failure ? error(info.Env(), failure->code, failure->message).Value() : info.Env().Null();
}

// groupStatistics(group): { collectives, bytesSent, communicationSeconds, waitSeconds }
Napi::Value Environment::group_statistics(const Napi::CallbackInfo& info) {
  const GroupStatistics statistics = group(info).group->statistics();
  Napi::Object answer = Napi::Object::New(info.Env());
  answer.Set("collectives", static_cast<double>(statistics.collectives));
  answer.Set("bytesSent", static_cast<double>(statistics.bytes_sent));
  answer.Set("communicationSeconds", statistics.communication_seconds);
  answer.Set("waitSeconds", statistics.wait_seconds);
  return answer;
}

// closeGroup(group): Promise<void>
Napi::Value Environment::close_group(const Napi::CallbackInfo& info) {
  OpenGroup& on = group(info);
  const auto deferred = Napi::Promise::Deferred::New(info.Env());
  on.group->close(wait(info.Env(), {deferred, {}}));
  return deferred.Promise();
}

// releaseGroup(group): after it was closed.
Napi::Value Environment::release_group(const Napi::CallbackInfo& info) {
  groups_.erase(info[0].As<Napi::Number>().Uint32Value());
  return info.Env().Undefined();
}

}  // namespace grpo_native
