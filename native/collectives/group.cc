#include "group.h"

#include <chrono>
#include <cstdio>

#include "open_communicator.h"

namespace grpo_native {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

const char* name_of(const CollectiveCall& call) {
  const char* const names[] = {"allReduce", "reduceScatter", "allGather", "broadcast", "reduce", "close"};
  return names[static_cast<uint32_t>(call.kind)];
}

std::string size_of(const CollectiveCall& call) {
  if (call.kind == CollectiveKind::kClose) return "";
  const char* const dtypes[] = {"f32", "bf16", "f16", "i32"};
  return std::to_string(call.count) + " " + dtypes[call.dtype];
}

}  // namespace

Group::Group(uint32_t id, GroupOptions options, std::shared_ptr<Mailbox> mailbox, uint64_t request)
    : id_(id), options_(std::move(options)), mailbox_(std::move(mailbox)), open_request_(request), thread_([this] {
        work();
      }) {}

Group::~Group() {
  abort("the group was discarded");
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

// ---- JavaScript thread ----------------------------------------------------------------------------------------------

void Group::connect(std::vector<std::string> addresses, uint64_t request) {
  enqueue([this, addresses = std::move(addresses), request] { connect_now(addresses, request); });
}

void Group::close(uint64_t request) {
  enqueue([this, request] { close_now(request); });
}

// ---- any thread -----------------------------------------------------------------------------------------------------

void Group::abort(const std::string& reason) {
  Communicator* communicator = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!failure_) {
      const Outcome outcome{"aborted", -1, reason};
      failure_ = running_ ? describe(name_of(*running_), running_->sequence, size_of(*running_), outcome)
                          : describe("abort", statistics_.collectives, "", outcome);
    }
    communicator = communicator_.get();
  }
  if (!communicator) return;
  communicator->abort();
  enqueue([communicator] { communicator->disconnect(); });
}

FailurePtr Group::failure() {
  std::lock_guard<std::mutex> lock(mutex_);
  return failure_;
}

GroupStatistics Group::statistics() {
  std::lock_guard<std::mutex> lock(mutex_);
  return statistics_;
}

// ---- engine's thread ------------------------------------------------------------------------------------------------

void Group::submit(std::shared_ptr<Collective> collective, FailurePtr input_failure) {
  if (input_failure) {
    // The others wait for values that this rank does not have: they learn of it by the closed connection.
    enqueue([this, collective, input_failure] {
      const FailurePtr failure = fail(collective->call, {"input", -1, "its tensor failed: " + input_failure->message});
      std::lock_guard<std::mutex> lock(mutex_);
      collective->failure = failure;
      collective->done = true;
      ended_.notify_all();
    });
  } else {
    enqueue([this, collective] { run(*collective); });
  }
}

FailurePtr Group::wait(Collective& collective) {
  const auto start = Clock::now();
  std::unique_lock<std::mutex> lock(mutex_);
  ended_.wait(lock, [&] { return collective.done; });
  statistics_.wait_seconds += seconds_since(start);
  return collective.failure;
}

// ---- group's thread -------------------------------------------------------------------------------------------------

void Group::work() {
  if (!open()) return;
  while (true) {
    std::function<void()> job;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !jobs_.empty(); });
      // What was handed over ends, with the group's failure, even when the group is discarded: an engine may wait for
      // it.
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

bool Group::open() {
  auto answer = std::make_unique<Message>();
  answer->request = open_request_;
  std::unique_ptr<Communicator> communicator =
      open_communicator(options_.engine, options_.libraries, options_.communicator, answer->attempts);
  if (communicator) {
    answer->bytes = communicator->address();
    answer->has_bytes = true;
  } else {
    answer->ended_group = id_;
  }
  const bool opened = communicator != nullptr;
  bool dead = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    communicator_ = std::move(communicator);
    dead = failure_ != nullptr;
  }
  if (opened && dead) communicator_->abort();
  mailbox_->post(std::move(answer));
  return opened;
}

void Group::connect_now(const std::vector<std::string>& addresses, uint64_t request) {
  FailurePtr failed = failure();
  if (!failed) {
    const Outcome outcome = communicator_->connect(addresses);
    if (!outcome.reason.empty()) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!failure_) failure_ = describe("connect", 0, "", outcome);
        failed = failure_;
      }
      communicator_->abort();
    }
  }
  mailbox_->settle(request, failed);
}

void Group::run(Collective& collective) {
  FailurePtr failed;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    failed = failure_;
    if (!failed) running_ = &collective.call;
  }
  const auto start = Clock::now();
  Outcome outcome;
  if (!failed) {
    outcome = communicator_->run(collective.call);
    if (!outcome.reason.empty()) failed = fail(collective.call, outcome);
  }
  std::lock_guard<std::mutex> lock(mutex_);
  running_ = nullptr;
  ++statistics_.collectives;
  statistics_.bytes_sent += outcome.bytes_sent;
  statistics_.communication_seconds += seconds_since(start);
  collective.failure = failed;
  collective.done = true;
  ended_.notify_all();
}

// A rank that has everyone's call to close may leave at once; the others then see it gone, which is no failure any
// more.
void Group::close_now(uint64_t request) {
  FailurePtr failed;
  if (!failure()) {
    CollectiveCall call{};
    call.kind = CollectiveKind::kClose;
    const Outcome outcome = communicator_->run(call);
    if (!outcome.reason.empty() && outcome.reason != "peer") failed = fail(call, outcome);
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!failure_) failure_ = describe("close", 0, "", {"engine", -1, "the group is closed"});
  }
  communicator_->abort();
  mailbox_->settle(request, failed);
}

FailurePtr Group::fail(const CollectiveCall& call, const Outcome& outcome) {
  FailurePtr failed;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!failure_) failure_ = describe(name_of(call), call.sequence, size_of(call), outcome);
    failed = failure_;
  }
  communicator_->abort();
  return failed;
}

// Lines of `key=value`, an empty line, and what happened: CollectiveError in src/errors.ts is made from it.
FailurePtr Group::describe(const char* name, uint64_t sequence, const std::string& size, const Outcome& outcome) const {
  std::string text = "reason=" + outcome.reason + "\nrank=" + std::to_string(options_.communicator.rank) +
                     "\nworldSize=" + std::to_string(options_.communicator.world_size) + "\ncollective=" + name +
                     "\nsequence=" + std::to_string(sequence) + "\nsize=" + size;
  if (outcome.peer >= 0) text += "\npeer=" + std::to_string(outcome.peer);
  text += "\n\n" + outcome.detail;
  return std::make_shared<const Failure>(Failure{"GRPO_COLLECTIVE", std::move(text)});
}

void Group::enqueue(std::function<void()> job) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

}  // namespace grpo_native
