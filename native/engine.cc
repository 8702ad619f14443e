#include "engine.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <new>

#include "backend_loader.h"

namespace grpo_native {

namespace {

constexpr size_t kSpareCalls = 256;  // used calls that wait to be used again

std::string readable(uint64_t bytes) {
  const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  char text[64];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
  return text;
}

FailurePtr make_failure(const char* code, std::string message) {
  return std::make_shared<const Failure>(Failure{code, std::move(message)});
}

size_t element_bytes(int32_t dtype) { return dtype == GRPO_BF16 || dtype == GRPO_F16 ? 2 : 4; }

bool covers_storage(const TensorArgument& argument) {
  const grpo_tensor& t = argument.tensor;
  int64_t elements = 1;
  for (int d = 0; d < t.rank; ++d) elements *= t.shape[d];
  const bool contiguous = t.rank == 0 || t.row_stride == t.shape[t.rank - 1];
  return contiguous && static_cast<uint64_t>(elements) * element_bytes(t.dtype) == argument.storage->bytes;
}

// One past the last byte of the storage that the tensor spans.
size_t end_of(const TensorArgument& argument) {
  const grpo_tensor& t = argument.tensor;
  int64_t rows = 1;
  for (int d = 0; d + 1 < t.rank; ++d) rows *= t.shape[d];
  const int64_t columns = t.rank == 0 ? 1 : t.shape[t.rank - 1];
  const int64_t elements = rows == 0 || columns == 0 ? 0 : (rows - 1) * t.row_stride + columns;
  return argument.byte_offset + static_cast<size_t>(elements) * element_bytes(t.dtype);
}

void* address_of(const TensorArgument& argument) {
  return static_cast<char*>(argument.storage->data) + argument.byte_offset;
}

}  // namespace

struct Engine::Job {
  explicit Job(uint64_t request) : request(request) {}
  virtual ~Job() = default;
  virtual void run() = 0;
  const uint64_t request;  // 0: nobody waits
};

template <class Run>
struct Engine::JobOf : Job {
  JobOf(Run run, uint64_t request) : Job(request), run_(std::move(run)) {}
  void run() override { run_(); }
  Run run_;
};

template <class Run>
void Engine::enqueue(Run run, uint64_t request) {
  auto job = std::make_unique<JobOf<Run>>(std::move(run), request);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    queue_.push_back(std::move(job));
  }
  wake_.notify_one();
}

// ---- JavaScript thread ----------------------------------------------------------------------------------------------

Engine::Engine(uint32_t id, EngineOptions options, std::shared_ptr<Mailbox> mailbox, uint64_t request)
    : id_(id), options_(std::move(options)), mailbox_(std::move(mailbox)), open_request_(request), thread_([this] {
        work();
      }) {}

Engine::~Engine() {
  stop();
  thread_.join();
}

void Engine::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
}

Storage* Engine::find(double storage) const {
  const auto found = storages_.find(static_cast<uint64_t>(storage));
  return found == storages_.end() ? nullptr : found->second.get();
}

double Engine::allocate(size_t bytes) {
  auto owned = std::make_shared<Storage>(bytes);
  Storage* storage = owned.get();
  storages_.emplace(++last_storage_, std::move(owned));
  enqueue([this, storage] { storage->failure = allocate_now(*storage); });
  return static_cast<double>(last_storage_);
}

double Engine::adopt(void* data, size_t bytes, std::optional<void*> stream, bool kept) {
  auto owned = std::make_shared<Storage>(bytes, data, kept);
  Storage* storage = owned.get();
  storages_.emplace(++last_storage_, std::move(owned));
  if (stream) {
    enqueue([this, storage, stream = *stream] {
      storage->failure = lost_ ? lost_ : failure_of(backend_->wait_for_stream(context_, stream), "tensorFromPointer");
      // Without the order it must not be used, not even to be overwritten.
      if (storage->failure) storage->data = nullptr;
    });
  }
  return static_cast<double>(last_storage_);
}

// Jobs hold plain pointers to storages: the job below is queued after all of them and takes the storage along. What a
// program holds of it says from then on why it cannot be used.
size_t Engine::release(double storage) {
  const auto found = storages_.find(static_cast<uint64_t>(storage));
  if (found == storages_.end()) return 0;
  std::shared_ptr<Storage> owned = std::move(found->second);
  storages_.erase(found);
  const size_t bytes = owned->adopted ? 0 : owned->bytes;
  enqueue([this, owned = std::move(owned), storage] {
    release_now(*owned);
    if (!owned->kept) return;
    synchronize_now({});
    auto message = std::make_unique<Message>();
    message->freed_engine = id_;
    message->freed_storage = static_cast<uint64_t>(storage);
    mailbox_->post(std::move(message));
  });
  return bytes;
}

void Engine::write(Storage* storage, size_t offset, const void* data, size_t bytes) {
  std::unique_ptr<unsigned char[]> copy(new unsigned char[bytes]);
  if (bytes > 0) std::memcpy(copy.get(), data, bytes);
  enqueue([this, storage, offset, bytes, copy = std::move(copy)] { write_now(*storage, offset, copy.get(), bytes); });
}

void Engine::read(Storage* storage, size_t offset, void* to, size_t bytes, uint64_t request) {
  enqueue([=, this] { mailbox_->settle(request, read_now(*storage, offset, to, bytes)); }, request);
}

std::unique_ptr<Call> Engine::take_call() {
  if (spare_calls_.empty()) {
    std::lock_guard<std::mutex> lock(mutex_);
    spare_calls_.swap(used_calls_);
  }
  if (spare_calls_.empty()) return std::make_unique<Call>();
  std::unique_ptr<Call> call = std::move(spare_calls_.back());
  spare_calls_.pop_back();
  return call;
}

void Engine::run(std::unique_ptr<Call> call) {
  enqueue([this, call = std::move(call)]() mutable {
    run_now(*call);
    if (done_.size() < kSpareCalls) done_.push_back(std::move(call));
  });
}

double Engine::record(std::vector<Call> calls, const std::vector<double>& storages) {
  auto program = std::make_shared<Program>();
  program->calls = std::move(calls);
  for (const double storage : storages) program->storages.push_back(storages_.at(static_cast<uint64_t>(storage)));
  programs_.emplace(++last_program_, std::move(program));
  return static_cast<double>(last_program_);
}

Program* Engine::find_program(double program) const {
  const auto found = programs_.find(static_cast<uint64_t>(program));
  return found == programs_.end() ? nullptr : found->second.get();
}

void Engine::replay(double program) {
  enqueue([this, program = programs_.at(static_cast<uint64_t>(program))] { replay_now(*program); });
}

void Engine::release_program(double program) {
  const auto found = programs_.find(static_cast<uint64_t>(program));
  if (found == programs_.end()) return;
  enqueue([this, program = std::move(found->second)] { drop_graph(*program); });
  programs_.erase(found);
}

void Engine::start(QueuedCollective queued) {
  enqueue([this, queued = std::move(queued)] { start_now(queued); });
}

void Engine::wait(std::shared_ptr<Collective> collective) {
  enqueue([this, collective = std::move(collective)] {
    finish_collectives([&](const QueuedCollective& queued) { return queued.collective == collective; });
  });
}

void Engine::synchronize(uint64_t request, std::optional<void*> stream) {
  enqueue([=, this] { mailbox_->settle(request, synchronize_now(stream)); }, request);
}

grpo_memory Engine::memory() const { return {live_bytes_, reserved_bytes_, peak_bytes_}; }

// ---- engine's thread ------------------------------------------------------------------------------------------------

void Engine::work() {
  if (open()) {
    run_jobs();
    // Nobody waits for their results any more, but they must not touch memory that is freed.
    for (const QueuedCollective& queued : in_flight_) queued.group->abort("the device was closed");
    finish_collectives([](const QueuedCollective&) { return true; });
    while (!with_graph_.empty()) drop_graph(**with_graph_.begin());
    for (Storage* storage : allocated_) backend_->release(context_, storage->data);
    backend_->destroy(context_);
  }
  auto message = std::make_unique<Message>();
  message->ended_engine = id_;
  mailbox_->post(std::move(message));
}

bool Engine::open() {
  auto answer = std::make_unique<Message>();
  answer->request = open_request_;
  backend_ = load_backend(options_.kind, options_.libraries, answer->attempts);
  if (backend_) answer->device_count = backend_->device_count();
  if (backend_ && options_.ordinal >= 0) {
    char text[1024] = "";
    const grpo_status status =
        backend_->create(options_.ordinal, options_.backend_options.c_str(), &context_, text, sizeof text);
    if (status == GRPO_OK) {
      answer->description = backend_->describe(context_);
    } else {
      answer->attempts.push_back({options_.kind + ":" + std::to_string(options_.ordinal), "device", text});
    }
  }
  mailbox_->post(std::move(answer));
  return context_ != nullptr;
}

void Engine::run_jobs() {
  while (!stop_) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      batch_.swap(queue_);
      if (used_calls_.empty()) used_calls_.swap(done_);
    }
    for (std::unique_ptr<Job>& job : batch_) {
      if (stop_) break;
      job->run();
      job.reset();
    }
    if (!stop_) batch_.clear();
  }
  std::lock_guard<std::mutex> lock(mutex_);
  const FailurePtr closed = make_failure("GRPO_DISPOSED", "A device with work in progress");
  for (auto* jobs : {&batch_, &queue_}) {
    for (const std::unique_ptr<Job>& job : *jobs) {
      if (job && job->request) mailbox_->settle(job->request, closed);
    }
  }
}

// nullptr for GRPO_OK. Device loss is remembered: every later job fails with it.
FailurePtr Engine::failure_of(grpo_status status, const std::string& what) {
  if (status == GRPO_OK) return nullptr;
  const char* text = backend_->last_error(context_);
  const std::string message = text && *text ? text : what + " failed with status " + std::to_string(status);
  switch (status) {
    case GRPO_OUT_OF_MEMORY:
      return make_failure("GRPO_OUT_OF_MEMORY", message);
    case GRPO_UNSUPPORTED:
      return make_failure("GRPO_UNSUPPORTED", message);
    case GRPO_DEVICE_LOST:
      return lost_ = make_failure("GRPO_DEVICE_LOST", message);
    default:
      return make_failure("GRPO_KERNEL", message);
  }
}

FailurePtr Engine::out_of_memory(size_t bytes) {
  uint64_t total = 0;
  std::vector<size_t> sizes;
  for (const Storage* storage : allocated_) {
    total += storage->bytes;
    sizes.push_back(storage->bytes);
  }
  const size_t shown = std::min<size_t>(sizes.size(), 5);
  std::partial_sort(sizes.begin(), sizes.begin() + shown, sizes.end(), std::greater<>());
  std::string message = "No memory on " + options_.kind + " for " + readable(bytes) + "; " + readable(total) +
                        " are live in " + std::to_string(sizes.size()) + " allocations";
  for (size_t i = 0; i < shown; ++i) message += (i == 0 ? ", the largest of " : ", ") + readable(sizes[i]);
  return make_failure("GRPO_OUT_OF_MEMORY", message);
}

FailurePtr Engine::allocate_now(Storage& storage) {
  if (lost_) return lost_;
  void* data = nullptr;
  const grpo_status status = backend_->allocate(context_, storage.bytes, &data);
  if (status == GRPO_OUT_OF_MEMORY) return out_of_memory(storage.bytes);
  if (status != GRPO_OK) return failure_of(status, "allocate");
  storage.data = data;
  allocated_.insert(&storage);
  publish_memory();
  return nullptr;
}

FailurePtr Engine::synchronize_now(std::optional<void*> stream) {
  if (lost_) return lost_;
  return failure_of(stream ? backend_->let_stream_wait(context_, *stream) : backend_->synchronize(context_),
                    "synchronize");
}

void Engine::release_now(Storage& storage) {
  // Also those that use none of its bytes know it.
  finish_collectives(
      [&](const QueuedCollective& queued) { return queued.in.storage == &storage || queued.out.storage == &storage; });
  if (allocated_.erase(&storage) > 0) {
    backend_->release(context_, storage.data);
    publish_memory();
  }
  static const FailurePtr gone = make_failure("GRPO_DISPOSED", "A tensor of a recording");
  storage.data = nullptr;
  storage.failure = gone;
}

void Engine::write_now(Storage& storage, size_t offset, const void* data, size_t bytes) {
  wait_for_memory(&storage, offset, offset + bytes);
  if (lost_) storage.failure = lost_;
  if (!storage.data || bytes == 0 || lost_) return;
  const FailurePtr failure =
      failure_of(backend_->upload(context_, static_cast<char*>(storage.data) + offset, data, bytes), "write");
  if (failure || bytes == storage.bytes) storage.failure = failure;
}

FailurePtr Engine::read_now(Storage& storage, size_t offset, void* to, size_t bytes) {
  wait_for_memory(&storage, offset, offset + bytes);
  if (lost_) return lost_;
  if (storage.failure || bytes == 0) return storage.failure;
  return failure_of(backend_->download(context_, to, static_cast<const char*>(storage.data) + offset, bytes), "read");
}

// Calls the operation with the addresses that its tensors have now.
grpo_status Engine::perform(Call& call) {
  auto* tensors = reinterpret_cast<grpo_tensor*>(call.args);
  for (size_t i = 0; i < call.operation->tensors.size(); ++i) {
    const TensorArgument& argument = call.tensors[i];
    tensors[i] = argument.tensor;
    if (argument.storage) tensors[i].data = address_of(argument);
  }
  return call.operation->call(*backend_, context_, call.args);
}

// Whether it succeeded.
bool Engine::run_now(Call& call) {
  if (!in_flight_.empty()) {
    for (size_t i = 0; i < call.operation->tensors.size(); ++i) {
      const TensorArgument& argument = call.tensors[i];
      if (argument.storage) wait_for_memory(argument.storage, argument.byte_offset, end_of(argument));
    }
  }
  FailurePtr failure = check_inputs(call);
  if (!failure) failure = failure_of(perform(call), call.operation->name);
  // A tensor that was written whole is good again, whatever failed before; one that was written in part is not.
  for (size_t i = 0; i < call.operation->tensors.size(); ++i) {
    const TensorArgument& argument = call.tensors[i];
    if (!argument.storage || !(call.writes >> i & 1)) continue;
    if (failure) {
      argument.storage->failure = failure;
    } else if (covers_storage(argument)) {
      argument.storage->failure = nullptr;
    }
  }
  return !failure;
}

void Engine::replay_now(Program& program) {
  ++program.replays;
  if (launch_now(program)) return;
  bool clean = true;
  for (Call& call : program.calls) clean = run_now(call) && clean;
  program.clean = clean;
}

// Whether the graph stood in for the calls. With a tensor that cannot be used they run one by one, which says what
// fails and what does not.
bool Engine::launch_now(Program& program) {
  if (lost_ || program.refused || !program.clean) return false;
  for (const auto& storage : program.storages) {
    wait_for_memory(storage.get(), 0, storage->bytes);
    if (storage->failure) return false;
  }
  grpo_status status = GRPO_UNSUPPORTED;
  for (int attempt = 0; attempt < 2 && status == GRPO_UNSUPPORTED; ++attempt) {
    if (attempt > 0) drop_graph(program);
    if (!program.graph && !capture_now(program)) return false;
    status = backend_->launch_graph(context_, program.graph);
  }
  if (status == GRPO_UNSUPPORTED) return false;
  ++program.launches;
  const FailurePtr failure = failure_of(status, "replay");
  if (!failure) return true;
  for (const Call& call : program.calls) {
    for (size_t i = 0; i < call.operation->tensors.size(); ++i) {
      if (call.tensors[i].storage && (call.writes >> i & 1)) call.tensors[i].storage->failure = failure;
    }
  }
  return true;
}

bool Engine::capture_now(Program& program) {
  grpo_status status = backend_->begin_capture(context_);
  if (status == GRPO_OK) {
    std::string error;
    for (Call& call : program.calls) {
      if (!(status = perform(call))) continue;
      error = std::string(call.operation->name) + ": " + backend_->last_error(context_);
      break;
    }
    const grpo_status end = backend_->end_capture(context_, status ? nullptr : &program.graph);
    if (status == GRPO_OK && end == GRPO_OK) {
      ++program.captures;
      with_graph_.insert(&program);
      return true;
    }
    program.refusal = status ? error : backend_->last_error(context_);
  } else {
    program.refusal = backend_->last_error(context_);
  }
  program.refused = true;
  return false;
}

void Engine::drop_graph(Program& program) {
  if (with_graph_.erase(&program) == 0) return;
  backend_->release_graph(context_, program.graph);
  program.graph = nullptr;
}

// The group gets plain addresses: the storages stay until the collective has ended (release_now).
void Engine::start_now(QueuedCollective queued) {
  for (const TensorArgument* argument : {&queued.in, &queued.out}) {
    wait_for_memory(argument->storage, argument->byte_offset, end_of(*argument));
  }
  FailurePtr failure = lost_;
  if (!failure) failure = queued.in.storage->failure;
  if (!failure && !queued.out.storage->data) failure = queued.out.storage->failure;
  if (!failure) {
    CollectiveCall& call = queued.collective->call;
    call.in = address_of(queued.in);
    call.out = address_of(queued.out);
    // The group's thread knows nothing of what the device has still to do. A CPU has done it.
    failure = failure_of(backend_->synchronize(context_), "synchronize");
  }
  queued.group->submit(queued.collective, failure);
  in_flight_.push_back(std::move(queued));
}

// Waits for the end of a collective and marks what it wrote, or failed to write.
void Engine::finish(const QueuedCollective& queued) {
  const FailurePtr failure = queued.group->wait(*queued.collective);
  Storage& out = *queued.out.storage;
  if (failure) {
    out.failure = failure;
  } else if (covers_storage(queued.out)) {
    out.failure = nullptr;
  }
}

template <class Touches>
void Engine::finish_collectives(Touches touches) {
  for (size_t i = 0; i < in_flight_.size();) {
    if (touches(in_flight_[i])) {
      finish(in_flight_[i]);
      in_flight_.erase(in_flight_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
}

// Collectives that use these bytes end first.
void Engine::wait_for_memory(const Storage* storage, size_t begin, size_t end) {
  if (in_flight_.empty()) return;
  finish_collectives([=](const QueuedCollective& queued) {
    for (const TensorArgument* argument : {&queued.in, &queued.out}) {
      if (argument->storage == storage && argument->byte_offset < end && begin < end_of(*argument)) return true;
    }
    return false;
  });
}

// The failure that keeps the operation from running: of a tensor that it reads, or of memory that was never allocated.
FailurePtr Engine::check_inputs(const Call& call) const {
  if (lost_) return lost_;
  for (size_t i = 0; i < call.operation->tensors.size(); ++i) {
    const Storage* storage = call.tensors[i].storage;
    if (storage && storage->failure && ((call.reads >> i & 1) || !storage->data)) return storage->failure;
  }
  return nullptr;
}

void Engine::publish_memory() {
  grpo_memory memory;
  backend_->memory(context_, &memory);
  live_bytes_ = memory.live_bytes;
  reserved_bytes_ = memory.reserved_bytes;
  peak_bytes_ = memory.peak_bytes;
}

}  // namespace grpo_native
