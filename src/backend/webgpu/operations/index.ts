import * as attention from './attention.js';
import * as elementwise from './elementwise.js';
import * as matmul from './matmul.js';
import * as norms from './norms.js';
import * as optimizer from './optimizer.js';
import * as rows from './rows.js';
import * as sample from './sample.js';

/** The operations of a decoder and its training, by the names of the list. */
export const decoderOperations = {
  gatherRows: rows.gatherRows,
  scatterRows: rows.scatterRows,
  embedding: rows.embedding,
  embeddingBackward: rows.embeddingBackward,
  ...matmul,
  rmsNorm: norms.rmsNorm,
  rmsNormBackward: norms.rmsNormBackward,
  columnSum: norms.columnSum,
  ...elementwise,
  ...attention,
  ...sample,
  ...optimizer,
};
