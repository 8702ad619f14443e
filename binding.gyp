# The addon as node-gyp builds it, for the CPU, into build/. Sources, macros and flags stand in native/sources.json.
# Where Gloo is installed, libgrpo_gloo.so comes beside it.
{
  "variables": {"grpo_gloo%": "<!(node native/find_gloo.mjs)"},
  "conditions": [
    ["grpo_gloo=='yes'", {
      "targets": [
        {
          "target_name": "grpo_gloo",
          "type": "shared_library",
          "product_name": "libgrpo_gloo",
          "sources": ["<!@(node -p \"require('./native/sources.json').glooSources.join(' ')\")"],
          "cflags!": ["-O2", "-fno-omit-frame-pointer"],
          "cflags": ["<!@(node -p \"require('./native/sources.json').cflags.join(' ')\")"],
          "cflags_cc!": ["-fno-rtti", "-fno-exceptions", "-std=gnu++17"],
          "cflags_cc": ["-std=c++20", "-fexceptions"],
          "libraries": ["-lgloo"]
        }
      ]
    }]
  ],
  "targets": [
    {
      "target_name": "grpo",
      "sources": ["<!@(node -p \"require('./native/sources.json').sources.join(' ')\")"],
      "defines": ["<!@(node -p \"require('./native/sources.json').defines.join(' ')\")"],
      "dependencies": ["<!(node -p \"require('node-addon-api').targets\"):node_addon_api_except_all"],
      "cflags!": ["-O2", "-fno-omit-frame-pointer"],
      "cflags": ["<!@(node -p \"require('./native/sources.json').cflags.join(' ')\")"],
      "cflags_cc!": ["-fno-rtti", "-fno-exceptions", "-std=gnu++17"],
      "cflags_cc": ["-std=c++20", "-fexceptions"],
      "libraries": ["-ldl"],
      "xcode_settings": {
        "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
        "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
        "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
        "GCC_OPTIMIZATION_LEVEL": "3",
        "MACOSX_DEPLOYMENT_TARGET": "12.0",
        "OTHER_CFLAGS": ["<!@(node -p \"require('./native/sources.json').cflags.join(' ')\")"]
      }
    }
  ]
}
