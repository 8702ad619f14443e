// How an engine's thread reaches the JavaScript thread of its environment. The environment may go away at any moment (a
// worker is terminated, the process exits): messages posted after that are dropped.
#pragma once

#include <node_api.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "storage.h"

namespace grpo_native {

// One step of looking for a backend (BackendAttempt in src/errors.ts).
struct Attempt {
  std::string path, stage, message;
};

// Settles the promise numbered `request`, or tells that an engine has ended.
struct Message {
  uint64_t request = 0;
  FailurePtr failure;  // nullptr: success
  uint32_t ended_engine = 0, ended_group = 0;
  // Nothing uses this adopted memory any more.
  uint32_t freed_engine = 0;
  uint64_t freed_storage = 0;
  // Answers to "open" and "probe".
  std::string description;
  int device_count = 0;
  std::vector<Attempt> attempts;
  // The answer to "open group": the address of this rank.
  bool has_bytes = false;
  std::string bytes;
};

class Mailbox : public std::enable_shared_from_this<Mailbox> {
 public:
  using Handler = void (*)(napi_env env, void* context, const Message& message);

  // On the JavaScript thread. `handler` is called there with `context` for every message.
  static std::shared_ptr<Mailbox> create(napi_env env, Handler handler, void* context);

  // On any thread.
  void post(std::unique_ptr<Message> message);
  // The same for a message that settles a promise and says no more.
  void settle(uint64_t request, FailurePtr failure);

  // On the JavaScript thread: whether waiting messages keep the process alive.
  void keep_alive(napi_env env, bool alive);

 private:
  static void deliver(napi_env env, napi_value function, void* self, void* message);
  static void finalize(napi_env env, void* hold, void* hint);

  std::mutex mutex_;
  bool closed_ = false;  // set under the mutex; the function is never touched afterwards
  napi_threadsafe_function function_ = nullptr;
  Handler handler_ = nullptr;
  void* context_ = nullptr;
};

}  // namespace grpo_native
