/** The flags of the WebGPU specification; in Node there is no global that holds them. */
export const bufferUsage = {
  MAP_READ: 0x0001,
  COPY_SRC: 0x0004,
  COPY_DST: 0x0008,
  UNIFORM: 0x0040,
  STORAGE: 0x0080,
} as const;

export const mapModeRead = 0x0001;
export const shaderStageCompute = 0x4;
