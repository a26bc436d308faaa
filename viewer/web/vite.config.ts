// How the viewer is built: relative addresses, hashed names, and a .br and .gz beside everything that shrinks.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { defineConfig, type Plugin } from 'vite';

const none = fileURLToPath(new URL('./src/stubs/none.ts', import.meta.url));
const loader = '@cornerstonejs/dicom-image-loader';

/** Compressed copies at build time, so that the server only has to choose one. */
function precompress(): Plugin {
  let folder = '';
  return {
    name: 'precompress',
    apply: 'build',
    configResolved(config) {
      folder = config.build.outDir;
    },
    closeBundle() {
      for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
        if (!/\.(js|css|html|svg|wasm|json|webmanifest)$/.test(name)) continue;
        const path = join(folder, name);
        const bytes = readFileSync(path);
        if (bytes.length < 1024) continue;
        const params = { [constants.BROTLI_PARAM_QUALITY]: 9, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length };
        writeFileSync(`${path}.br`, brotliCompressSync(bytes, { params }));
        writeFileSync(`${path}.gz`, gzipSync(bytes, { level: 9 }));
      }
    },
  };
}

export default defineConfig({
  base: './',
  plugins: [precompress()],
  resolve: {
    alias: [
      {
        // Mesh readers that nothing here uses; one of them pulls in node's `events` and breaks the page at load.
        find: /^@kitware\/vtk\.js\/IO\/(XML\/XMLPolyDataReader|Geometry\/(PLY|STL)Reader|Misc\/(OBJ|MTL)Reader)\.js$/,
        replacement: none,
      },
    ],
  },
  build: {
    outDir: fileURLToPath(new URL('../static', import.meta.url)),
    emptyOutDir: true,
    target: 'es2022',
    chunkSizeWarningLimit: 6000,
    reportCompressedSize: false,
  },
  worker: { format: 'es' },
  optimizeDeps: {
    exclude: [loader],
    include: [
      `${loader} > dicom-parser`,
      `${loader} > pako`,
      `${loader} > comlink`,
      `${loader} > uuid`,
      ...['charls', 'libjpeg-turbo-8bit', 'openjpeg', 'libjxl'].map(
        (codec) => `${loader} > @cornerstonejs/codec-${codec}/decodewasmjs`,
      ),
      `${loader} > @cornerstonejs/codec-openjph/wasmjs`,
      `${loader} > @cornerstonejs/jpeg-lossless-decoder-js`,
    ],
  },
});
