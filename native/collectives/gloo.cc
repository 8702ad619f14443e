// Collectives over Gloo's TCP transport: libgrpo_gloo.so, the only file that knows Gloo. Gloo connects the processes,
// moves the bytes and notices dead peers and timeouts. What is exchanged is decided here rather than by Gloo's own
// algorithms, whose order of summation depends on where an element lies: every rank owns a part of the tensor, gets
// that part from all others, and adds them in rank order.
//
// Each call begins with an exchange of headers, so that ranks which call different things get an error and do not hang
// or mix up memory.

#include <dirent.h>
#include <fcntl.h>
#include <gloo/common/error.h>
#include <gloo/context.h>
#include <gloo/transport/context.h>
#include <gloo/transport/device.h>
#include <gloo/transport/pair.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>
#include <net/if.h>
#include <sys/stat.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "communicator.h"
#include "reduce.h"

namespace grpo_native {

namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

// Messages between two ranks with the same slot keep their order.
enum Slot : uint64_t { kHeaderSlot = 1, kReduceSlot, kGatherSlot, kWatchSlot };

// Parts to reduce travel in pieces of this size: the next one arrives while one is added up.
constexpr size_t kPieceBytes = size_t{1} << 20;

// How often it is checked whether all peers are still there.
constexpr Milliseconds kWatchInterval{100};

struct Header {
  uint64_t sequence, count;
  uint32_t kind, op, dtype, root;
  bool operator==(const Header&) const = default;
};

const char* const kNames[] = {"allReduce", "reduceScatter", "allGather", "broadcast", "reduce", "close"};
const char* const kDTypes[] = {"f32", "bf16", "f16", "i32"};
const char* const kOps[] = {"sum", "max", "min"};

std::string describe(const Header& h) {
  if (h.kind >= std::size(kNames) || h.dtype >= std::size(kDTypes) || h.op >= std::size(kOps)) return "something else";
  if (h.kind == uint32_t(CollectiveKind::kClose)) return "close";
  std::string text = std::string(kNames[h.kind]) + " " + std::to_string(h.sequence);
  text += " of " + std::to_string(h.count) + " " + kDTypes[h.dtype];
  if (h.kind == uint32_t(CollectiveKind::kAllReduce)) text += std::string(" (") + kOps[h.op] + ")";
  if (h.kind == uint32_t(CollectiveKind::kBroadcast)) text += " from rank " + std::to_string(h.root);
  if (h.kind == uint32_t(CollectiveKind::kReduce)) text += " to rank " + std::to_string(h.root);
  return text;
}

// Gloo's Context in two steps: listen, then connect, with the addresses exchanged by somebody else in between.
class Mesh : public gloo::Context {
 public:
  Mesh(int rank, int size, Milliseconds timeout, std::shared_ptr<gloo::transport::Device> device)
      : gloo::Context(rank, size) {
    device_ = std::move(device);
    transportContext_ = device_->createContext(rank, size);
    // Pairs use it for connecting alone, and wait five times as long.
    transportContext_->setTimeout(std::max(Milliseconds(1), timeout / 5));
    for (int peer = 0; peer < size; ++peer) {
      if (peer != rank) transportContext_->createPair(peer);
    }
  }
};

// The numbers of the process's open files.
std::set<int> open_files() {
  std::set<int> files;
  if (DIR* folder = opendir("/proc/self/fd")) {
    while (const dirent* entry = readdir(folder)) files.insert(std::atoi(entry->d_name));
    closedir(folder);
  }
  return files;
}

// Gloo lets the children of the process inherit its sockets, which would then outlive it, and the other ranks would not
// notice its death.
void keep_from_children(const std::set<int>& files_before) {
  for (const int file : open_files()) {
    struct stat what;
    if (files_before.contains(file) || fstat(file, &what) != 0 || !S_ISSOCK(what.st_mode)) continue;
    const int flags = fcntl(file, F_GETFD);
    if (flags >= 0) fcntl(file, F_SETFD, flags | FD_CLOEXEC);
  }
}

struct Failed {
  Outcome outcome;
};

[[noreturn]] void fail(const char* reason, int peer, std::string detail) { throw Failed{{reason, peer, detail}}; }

// Gloo's messages begin with the place in its source, in brackets.
std::string without_source(const std::string& message) {
  const size_t end = message.find("] ");
  return message.starts_with("[") && end != std::string::npos ? message.substr(end + 2) : message;
}

// Elements [begin, begin + count) of a tensor.
struct Part {
  size_t begin, count;
};

class GlooCommunicator final : public Communicator {
 public:
  explicit GlooCommunicator(const CommunicatorOptions& options)
      : rank_(options.rank),
        size_(options.world_size),
        timeout_(Milliseconds(std::max<int64_t>(1, static_cast<int64_t>(options.timeout_seconds * 1000)))) {
    mesh_ = std::make_unique<Mesh>(rank_, size_, timeout_, open_device(options.interface));
    keep_from_children(files_before_);
  }

  ~GlooCommunicator() override {
    abort();
    if (watcher_.joinable()) watcher_.join();
  }

  // For each rank the address that its pair connects to: a length, then the bytes.
  std::string address() override {
    std::string all;
    for (int peer = 0; peer < size_; ++peer) {
      std::vector<char> one;
      if (peer != rank_) one = mesh_->getPair(peer)->address().bytes();
      const auto length = static_cast<uint32_t>(one.size());
      all.append(reinterpret_cast<const char*>(&length), sizeof length);
      all.append(one.data(), one.size());
    }
    return all;
  }

  Outcome connect(const std::vector<std::string>& addresses) override {
    return guarded([&] {
      for (int peer = 0; peer < size_; ++peer) {
        if (peer == rank_) continue;
        const std::vector<char> to = address_in(addresses[peer], peer);
        blaming(peer, [&] { mesh_->getPair(peer)->connect(to); });
      }
      keep_from_children(files_before_);
      for (int peer = 0; peer < size_; ++peer) {
        if (peer == rank_) continue;
        watched_.emplace_back(peer, mesh_->createUnboundBuffer(&nothing_, sizeof nothing_));
        blaming(peer, [&] { watched_.back().second->recv(peer, kWatchSlot, 0, sizeof nothing_); });
      }
      watcher_ = std::thread([this] { watch(); });
    });
  }

  Outcome run(const CollectiveCall& call) override {
    return guarded([&] {
      exchange_headers(call);
      switch (call.kind) {
        case CollectiveKind::kAllReduce:
          all_reduce(call);
          break;
        case CollectiveKind::kReduceScatter:
          reduce(call, static_cast<const char*>(call.in), whole_parts(call.count), call.out);
          break;
        case CollectiveKind::kAllGather:
          all_gather(call);
          break;
        case CollectiveKind::kBroadcast:
          broadcast(call);
          break;
        case CollectiveKind::kReduce:
          reduce(call, static_cast<const char*>(call.in), all_of(call.root, call.count), call.out);
          break;
        case CollectiveKind::kClose:
          break;
      }
    });
  }

  void abort() override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (aborted_) return;
    aborted_ = true;
    stop_watching_.notify_all();
    end_waits();
    // Also wakes a thread that waits for a connection.
    mesh_->closeConnections();
  }

  // abort() has done it.
  void disconnect() override {}

 private:
  // Memory that Gloo sends from or receives into. Destroyed before the memory goes away: Gloo then forgets it.
  class Buffer {
   public:
    Buffer(GlooCommunicator& owner, const void* data, size_t bytes)
        : owner_(owner), buffer_(owner.mesh_->createUnboundBuffer(const_cast<void*>(data), bytes)) {
      std::lock_guard<std::mutex> lock(owner_.mutex_);
      owner_.check_alive();
      owner_.active_.insert(buffer_.get());
    }
    ~Buffer() {
      std::lock_guard<std::mutex> lock(owner_.mutex_);
      owner_.active_.erase(buffer_.get());
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    void send(int peer, Slot slot, size_t offset, size_t bytes) {
      owner_.blaming(peer, [&] { buffer_->send(peer, slot, offset, bytes); });
      owner_.bytes_sent_ += bytes;
      ++sends_;
      peer_ = peer;
    }
    void receive(int peer, Slot slot, size_t offset, size_t bytes) {
      owner_.blaming(peer, [&] { buffer_->recv(peer, slot, offset, bytes); });
      peer_ = peer;
    }
    // For one receive, and for all sends so far.
    void wait_received() {
      wait([&](Milliseconds left) { return buffer_->waitRecv(nullptr, left); });
    }
    void wait_sent() {
      for (; sends_ > 0; --sends_) wait([&](Milliseconds left) { return buffer_->waitSend(nullptr, left); });
    }

   private:
    template <class Wait>
    void wait(Wait wait) {
      owner_.blaming(peer_, [&] {
        const auto left = std::chrono::duration_cast<Milliseconds>(owner_.deadline_ - Clock::now());
        if (wait(std::max(left, Milliseconds(1)))) return;
        std::lock_guard<std::mutex> lock(owner_.mutex_);
        owner_.check_alive();
      });
    }

    GlooCommunicator& owner_;
    std::unique_ptr<gloo::transport::UnboundBuffer> buffer_;
    int sends_ = 0;
    int peer_ = -1;
  };

  static std::shared_ptr<gloo::transport::Device> open_device(const std::string& where) {
    gloo::transport::tcp::attr attributes;
    if (!where.empty() && if_nametoindex(where.c_str()) != 0) {
      attributes.iface = where;
    } else {
      attributes.hostname = where;
    }
    return gloo::transport::tcp::CreateDevice(attributes);
  }

  // Runs `body`, a call of the whole world, with exceptions turned into an Outcome.
  template <class Body>
  Outcome guarded(Body body) {
    deadline_ = Clock::now() + timeout_;
    bytes_sent_ = 0;
    try {
      body();
    } catch (const Failed& failed) {
      return failed.outcome;
    } catch (const std::exception& error) {
      return {"engine", -1, error.what()};
    }
    Outcome outcome;
    outcome.bytes_sent = bytes_sent_;
    return outcome;
  }

  // Gloo reports a dead peer and a timeout by the same exception; the clock tells them apart.
  template <class Body>
  void blaming(int peer, Body body) {
    try {
      body();
    } catch (const gloo::Exception& error) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        check_alive();
      }
      if (Clock::now() < deadline_ - Milliseconds(1)) throw Failed{gone(peer, error)};
      char text[96];
      std::snprintf(text, sizeof text, "rank %d did not answer within %.3g seconds", peer,
                    std::chrono::duration<double>(timeout_).count());
      fail("timeout", peer, text);
    }
  }

  // A rank waits for one peer at a time; that another one has died, or has given up, is found out here. Nobody ever
  // sends what the watched buffers wait for, and the wait that is aborted before it begins only tells whether the
  // connection has failed.
  void watch() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!stop_watching_.wait_for(lock, kWatchInterval, [this] { return aborted_; })) {
      lock.unlock();
      std::optional<Outcome> found;
      for (auto& [peer, buffer] : watched_) {
        try {
          buffer->abortWaitRecv();
          buffer->waitRecv(nullptr, Milliseconds(1));
        } catch (const gloo::Exception& error) {
          found = gone(peer, error);
          break;
        }
      }
      lock.lock();
      if (!found) continue;
      lost_ = found;
      end_waits();
      return;
    }
  }

  // The next two: under the mutex.
  void end_waits() {
    for (gloo::transport::UnboundBuffer* buffer : active_) {
      buffer->abortWaitRecv();
      buffer->abortWaitSend();
    }
  }
  void check_alive() {
    if (lost_) throw Failed{*lost_};
    if (aborted_) fail("aborted", -1, "the group was aborted");
  }

  static Outcome gone(int peer, const gloo::Exception& error) {
    return {"peer", peer, "rank " + std::to_string(peer) + " is gone (" + without_source(error.what()) + ")"};
  }

  std::vector<char> address_in(const std::string& all, int peer) const {
    size_t at = 0;
    for (int r = 0;; ++r) {
      uint32_t length = 0;
      if (all.size() < at + sizeof length) break;
      std::memcpy(&length, all.data() + at, sizeof length);
      at += sizeof length;
      if (all.size() < at + length) break;
      if (r == rank_) return {all.begin() + at, all.begin() + at + length};
      at += length;
    }
    fail("mismatch", peer, "rank " + std::to_string(peer) + " gave an address for another number of ranks");
  }

  void exchange_headers(const CollectiveCall& call) {
    const Header mine{call.sequence, call.count, uint32_t(call.kind), uint32_t(call.op), call.dtype, call.root};
    std::vector<Header> theirs(size_);
    std::vector<std::unique_ptr<Buffer>> sends, receives;
    for (int i = 1; i < size_; ++i) {
      const int peer = (rank_ + i) % size_;
      receives.push_back(std::make_unique<Buffer>(*this, &theirs[peer], sizeof(Header)));
      receives.back()->receive(peer, kHeaderSlot, 0, sizeof(Header));
      sends.push_back(std::make_unique<Buffer>(*this, &mine, sizeof(Header)));
      sends.back()->send(peer, kHeaderSlot, 0, sizeof(Header));
    }
    for (auto& receive : receives) receive->wait_received();
    for (auto& send : sends) send->wait_sent();
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_ || theirs[peer] == mine) continue;
      fail("mismatch", peer,
           "rank " + std::to_string(peer) + " called " + describe(theirs[peer]) + " but this rank called " +
               describe(mine));
    }
  }

  // Part r of `count` elements a rank.
  std::vector<Part> whole_parts(size_t count) const {
    std::vector<Part> parts;
    for (int r = 0; r < size_; ++r) parts.push_back({r * count, count});
    return parts;
  }

  // All elements are part `root`.
  std::vector<Part> all_of(uint32_t root, size_t count) const {
    std::vector<Part> parts(size_, Part{0, 0});
    parts[root].count = count;
    return parts;
  }

  // `count` elements divided among the ranks.
  std::vector<Part> divided(size_t count) const {
    const size_t most = (count + size_ - 1) / size_;
    std::vector<Part> parts;
    for (int r = 0; r < size_; ++r) {
      const size_t begin = std::min(r * most, count);
      parts.push_back({begin, std::min(most, count - begin)});
    }
    return parts;
  }

  // out = the reduction over the ranks of this rank's part of `data`; the other parts of `data` are only read.
  void reduce(const CollectiveCall& call, const char* data, const std::vector<Part>& parts, void* out) {
    const size_t element = collective_element_bytes(call.dtype);
    const size_t piece = kPieceBytes / element;
    std::vector<std::unique_ptr<Buffer>> sends;
    for (int i = 1; i < size_; ++i) {
      const int peer = (rank_ + i) % size_;
      const Part& part = parts[peer];
      sends.push_back(std::make_unique<Buffer>(*this, data + part.begin * element, part.count * element));
      for (size_t at = 0; at < part.count; at += piece) {
        sends.back()->send(peer, kReduceSlot, at * element, std::min(piece, part.count - at) * element);
      }
    }

    const Part mine = parts[rank_];
    const size_t staged = std::min(piece, mine.count) * element;
    // One piece of each peer is added up while the next one arrives.
    std::vector<char> staging[2];
    std::vector<std::unique_ptr<Buffer>> receives[2];
    const auto post = [&](size_t at, int set) {
      for (int i = 1; i < size_; ++i) {
        const int peer = (rank_ - i + size_) % size_;
        receives[set][peer]->receive(peer, kReduceSlot, 0, std::min(piece, mine.count - at) * element);
      }
    };
    for (int set = 0; set < 2; ++set) {
      if (mine.count == 0 || size_ == 1) break;
      staging[set].resize(staged * size_);
      for (int peer = 0; peer < size_; ++peer) {
        receives[set].push_back(std::make_unique<Buffer>(*this, staging[set].data() + peer * staged, staged));
      }
    }
    if (mine.count > 0) post(0, 0);
    int set = 0;
    for (size_t at = 0; at < mine.count; at += piece, set ^= 1) {
      const size_t n = std::min(piece, mine.count - at);
      if (at + n < mine.count) post(at + n, set ^ 1);
      std::vector<const void*> from;
      for (int r = 0; r < size_; ++r) {
        if (r == rank_) {
          from.push_back(data + (mine.begin + at) * element);
        } else {
          receives[set][r]->wait_received();
          from.push_back(staging[set].data() + r * staged);
        }
      }
      reduce_in_order(call.dtype, call.op, static_cast<char*>(out) + at * element, from, n);
    }
    for (auto& send : sends) send->wait_sent();
  }

  // Every rank has its own part of `data` and gets the others.
  void gather(const CollectiveCall& call, char* data, const std::vector<Part>& parts) {
    const size_t element = collective_element_bytes(call.dtype);
    std::vector<std::unique_ptr<Buffer>> sends, receives;
    for (int i = 1; i < size_; ++i) {
      const int from = (rank_ - i + size_) % size_, to = (rank_ + i) % size_;
      const Part &theirs = parts[from], &mine = parts[rank_];
      if (theirs.count > 0) {
        receives.push_back(std::make_unique<Buffer>(*this, data + theirs.begin * element, theirs.count * element));
        receives.back()->receive(from, kGatherSlot, 0, theirs.count * element);
      }
      if (mine.count > 0) {
        sends.push_back(std::make_unique<Buffer>(*this, data + mine.begin * element, mine.count * element));
        sends.back()->send(to, kGatherSlot, 0, mine.count * element);
      }
    }
    for (auto& receive : receives) receive->wait_received();
    for (auto& send : sends) send->wait_sent();
  }

  void all_reduce(const CollectiveCall& call) {
    auto* data = static_cast<char*>(call.out);
    const std::vector<Part> parts = divided(call.count);
    reduce(call, data, parts, data + parts[rank_].begin * collective_element_bytes(call.dtype));
    gather(call, data, parts);
  }

  void all_gather(const CollectiveCall& call) {
    const size_t bytes = call.count * collective_element_bytes(call.dtype);
    char* own = static_cast<char*>(call.out) + rank_ * bytes;
    if (own != call.in && bytes > 0) std::memcpy(own, call.in, bytes);
    gather(call, static_cast<char*>(call.out), whole_parts(call.count));
  }

  void broadcast(const CollectiveCall& call) {
    const size_t bytes = call.count * collective_element_bytes(call.dtype);
    if (bytes == 0) return;
    const int root = static_cast<int>(call.root);
    Buffer buffer(*this, call.out, bytes);
    if (rank_ != root) {
      buffer.receive(root, kGatherSlot, 0, bytes);
      buffer.wait_received();
      return;
    }
    for (int i = 1; i < size_; ++i) buffer.send((rank_ + i) % size_, kGatherSlot, 0, bytes);
    buffer.wait_sent();
  }

  const std::set<int> files_before_ = open_files();
  const int rank_, size_;
  const Milliseconds timeout_;
  std::unique_ptr<Mesh> mesh_;
  Clock::time_point deadline_;
  uint64_t bytes_sent_ = 0;

  std::mutex mutex_;  // of the next four
  bool aborted_ = false;
  std::optional<Outcome> lost_;  // a peer that is gone
  std::set<gloo::transport::UnboundBuffer*> active_;
  std::condition_variable stop_watching_;

  char nothing_ = 0;
  std::vector<std::pair<int, std::unique_ptr<gloo::transport::UnboundBuffer>>> watched_;
  std::thread watcher_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) uint32_t grpo_gloo_version() { return kGlooLibraryVersion; }

extern "C" __attribute__((visibility("default"))) Communicator* grpo_gloo_open(const CommunicatorOptions& options,
                                                                               std::string& error) {
  try {
    return new GlooCommunicator(options);
  } catch (const std::exception& failure) {
    error = failure.what();
    return nullptr;
  }
}

}  // namespace grpo_native
