#include "mailbox.h"

namespace grpo_native {

std::shared_ptr<Mailbox> Mailbox::create(napi_env env, Handler handler, void* context) {
  auto mailbox = std::make_shared<Mailbox>();
  mailbox->handler_ = handler;
  mailbox->context_ = context;
  napi_value name;
  if (napi_create_string_utf8(env, "grpo", NAPI_AUTO_LENGTH, &name) != napi_ok) return nullptr;
  // The finalizer owns a share of the mailbox, so that it outlives every call into it.
  auto* hold = new std::shared_ptr<Mailbox>(mailbox);
  const napi_status status = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, hold, finalize,
                                                             mailbox.get(), deliver, &mailbox->function_);
  if (status != napi_ok) {
    delete hold;
    return nullptr;
  }
  napi_unref_threadsafe_function(env, mailbox->function_);
  return mailbox;
}

void Mailbox::post(std::unique_ptr<Message> message) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  if (napi_call_threadsafe_function(function_, message.get(), napi_tsfn_nonblocking) == napi_ok) {
    message.release();  // deliver() owns it
  } else {
    closed_ = true;
  }
}

void Mailbox::settle(uint64_t request, FailurePtr failure) {
  auto message = std::make_unique<Message>();
  message->request = request;
  message->failure = std::move(failure);
  post(std::move(message));
}

void Mailbox::keep_alive(napi_env env, bool alive) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return;
  if (alive) {
    napi_ref_threadsafe_function(env, function_);
  } else {
    napi_unref_threadsafe_function(env, function_);
  }
}

// `env` is null when the environment is being torn down: then the message is only freed.
void Mailbox::deliver(napi_env env, napi_value, void* self, void* message) {
  const std::unique_ptr<Message> owned(static_cast<Message*>(message));
  auto* mailbox = static_cast<Mailbox*>(self);
  if (env) mailbox->handler_(env, mailbox->context_, *owned);
}

void Mailbox::finalize(napi_env, void* hold, void*) {
  const std::unique_ptr<std::shared_ptr<Mailbox>> mailbox(static_cast<std::shared_ptr<Mailbox>*>(hold));
  std::lock_guard<std::mutex> lock((*mailbox)->mutex_);
  (*mailbox)->closed_ = true;
}

}  // namespace grpo_native
