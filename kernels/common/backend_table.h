// What the tables of the CPU and CUDA are made of alike. Included by their backend files, in the namespace of their
// functions.
#pragma once

static const char* describe(grpo_context* context) { return context->description.c_str(); }
static const char* last_error(grpo_context* context) { return context->error.c_str(); }

#define GRPO_TABLE_ENTRY(op) run_##op,
#define GRPO_BACKEND_TABLE(kind)                                                                                      \
  {                                                                                                                   \
    GRPO_ABI_VERSION, sizeof(grpo_backend), kind, device_count, create, destroy, describe, last_error, allocate,      \
        release, upload, download, synchronize, wait_for_stream, let_stream_wait, memory, begin_capture, end_capture, \
        launch_graph, release_graph, GRPO_OPERATIONS(GRPO_TABLE_ENTRY)                                                \
  }
