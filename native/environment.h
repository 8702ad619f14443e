// What one environment (the main thread, each worker) holds, and the functions that JavaScript calls. Nothing is
// global.
#pragma once

#include <napi.h>

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "collectives/group.h"
#include "engine.h"
#include "mailbox.h"
#include "operations.h"

namespace grpo_native {

constexpr double kLargestInteger = 9007199254740991.0;  // 2^53 - 1
constexpr int kTensorFields = 5 + GRPO_MAX_RANK;        // storage, byte offset, dtype, rank, shape, row stride
constexpr int64_t kUnreportedBytes = int64_t{1} << 30;

struct Access {
  uint32_t reads, writes;
};

class Environment {
 public:
  Environment(Napi::Env env, Napi::Object exports);

 private:
  // A promise that waits for an engine.
  struct Pending {
    Napi::Promise::Deferred deferred;
    Napi::Reference<Napi::Value> value;  // what a read fills; otherwise empty
    uint32_t engine = 0;                 // the engine that an "open" makes
    uint32_t group = 0;                  // the group that an "open group" makes
  };

  using Method = Napi::Value (Environment::*)(const Napi::CallbackInfo&);
  template <Method method>
  static Napi::Value call(const Napi::CallbackInfo& info);
  template <Method method>
  void define(Napi::Object exports, const char* name);

  Napi::Value configure(const Napi::CallbackInfo& info);
  Napi::Value list_operations(const Napi::CallbackInfo& info);
  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value allocate(const Napi::CallbackInfo& info);
  Napi::Value adopt(const Napi::CallbackInfo& info);
  Napi::Value release(const Napi::CallbackInfo& info);
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value run(const Napi::CallbackInfo& info);
  Napi::Value record(const Napi::CallbackInfo& info);
  Napi::Value replay(const Napi::CallbackInfo& info);
  Napi::Value release_recording(const Napi::CallbackInfo& info);
  Napi::Value recording_statistics(const Napi::CallbackInfo& info);
  Napi::Value synchronize(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  Napi::Value open_group(const Napi::CallbackInfo& info);
  Napi::Value connect_group(const Napi::CallbackInfo& info);
  Napi::Value start_collective(const Napi::CallbackInfo& info);
  Napi::Value wait_collective(const Napi::CallbackInfo& info);
  Napi::Value abort_group(const Napi::CallbackInfo& info);
  Napi::Value group_failure(const Napi::CallbackInfo& info);
  Napi::Value group_statistics(const Napi::CallbackInfo& info);
  Napi::Value close_group(const Napi::CallbackInfo& info);
  Napi::Value release_group(const Napi::CallbackInfo& info);
  Napi::Value stop(const Napi::CallbackInfo& info);

  static void on_message(napi_env env, void* self, const Message& message);
  void settle(Napi::Env env, Pending& pending, const Message& message);
  uint64_t wait(Napi::Env env, Pending pending);
  Napi::Error error(Napi::Env env, const char* code, const std::string& message);
  const void* bytes_of(Napi::Env env, Napi::Value view, size_t& bytes);
  Engine& engine(const Napi::CallbackInfo& info);
  std::optional<void*> stream(Napi::Env env, Napi::Value value);
  Storage& storage(Napi::Env env, Engine& engine, double id);
  void account(Napi::Env env, int64_t bytes);
  void report_memory(Napi::Env env);
  // Gives how much of the payload the call takes.
  size_t read_call(Napi::Env env, Engine& engine, size_t index, const double* payload, size_t length, Call& call);
  Program& program(Napi::Env env, Engine& engine, double id);
  TensorArgument read_tensor(Napi::Env env, Engine& engine, const double* fields, const char* where);

  // A group of processes, and the collectives of it that JavaScript may still wait for by number.
  struct OpenGroup {
    uint32_t engine;
    std::shared_ptr<Group> group;
    std::unordered_map<uint64_t, std::weak_ptr<Collective>> collectives;
  };
  OpenGroup& group(const Napi::CallbackInfo& info);
  void stop_all();

  std::shared_ptr<Mailbox> mailbox_;
  std::unordered_map<uint32_t, std::unique_ptr<Engine>> engines_;
  uint32_t last_engine_ = 0;
  // What keeps adopted memory alive, by engine and storage.
  std::unordered_map<uint32_t, std::unordered_map<uint64_t, Napi::Reference<Napi::Value>>> kept_;
  std::unordered_map<uint32_t, OpenGroup> groups_;
  uint32_t last_group_ = 0;
  std::unordered_map<uint64_t, Pending> pending_;
  uint64_t last_request_ = 0;
  Napi::FunctionReference make_error_;  // (code, message) => GrpoError
  std::vector<Access> accesses_;        // one an operation
  int64_t unreported_bytes_ = 0;        // taken, less given back, since the garbage collector was last told
};

}  // namespace grpo_native
