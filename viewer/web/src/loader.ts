// Cornerstone's start: the frame loader with a deadline and, where a frame does not come, the server's own picture.
import {
  init as coreInit,
  Enums,
  eventTarget,
  imageLoader,
  metaData,
  type Types,
  utilities,
} from '@cornerstonejs/core';
import loader, { wadors } from '@cornerstonejs/dicom-image-loader';
import { init as toolsInit } from '@cornerstonejs/tools';
import { renderedImage, unauthorised } from './api';
import { type Dataset, numbers, text } from './dicom';
import type { Stack } from './stack';

const STALLED = 8000; // ms without a byte
const DECODING = 20_000; // ms from the last byte to the image

const previews = new Map<string, { rows: number; columns: number }>();

/** Whether an image is the server's 8-bit picture and not the stored values. */
export function isPreview(imageId: string): boolean {
  return previews.has(imageId);
}

/** Rejects when a frame stalls: no byte for 8 s, or no image 20 s after its last byte. */
function watched(imageId: string, promise: Promise<Types.IImage>): Promise<Types.IImage> {
  return new Promise((resolve, reject) => {
    let timer: ReturnType<typeof setTimeout>;
    const wait = (ms: number) => {
      clearTimeout(timer);
      timer = setTimeout(() => finish(() => reject(new Error('no answer in time'))), ms);
    };
    const onProgress = (event: Event) => {
      if ((event as CustomEvent).detail?.imageId === imageId) wait(STALLED);
    };
    const onEnd = (event: Event) => {
      if ((event as CustomEvent).detail?.imageId === imageId) wait(DECODING);
    };
    const finish = (end: () => void) => {
      clearTimeout(timer);
      eventTarget.removeEventListener('cornerstoneimageloadprogress', onProgress);
      eventTarget.removeEventListener('cornerstoneimageloadend', onEnd);
      end();
    };
    eventTarget.addEventListener('cornerstoneimageloadprogress', onProgress);
    eventTarget.addEventListener('cornerstoneimageloadend', onEnd);
    wait(DECODING + STALLED); // it may stand in the queue first
    promise.then(
      (image) => finish(() => resolve(image)),
      (error) => finish(() => reject(error)),
    );
  });
}

/** The server's rendering of a frame as an RGB image, marked as a preview. */
async function preview(imageId: string): Promise<Types.IImage> {
  const bitmap = await createImageBitmap(await renderedImage(imageId.replace(/^wadors:/, '')));
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', { willReadFrequently: true })!;
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = rgba[from]!;
    rgb[to + 1] = rgba[from + 1]!;
    rgb[to + 2] = rgba[from + 2]!;
  }
  previews.set(imageId, { rows: height, columns: width });
  const plane = metaData.get(Enums.MetadataModules.IMAGE_PLANE, imageId) ?? {};
  return {
    imageId,
    dataType: 'Uint8Array',
    color: true,
    rgba: false,
    numberOfComponents: 3,
    photometricInterpretation: 'RGB',
    columns: width,
    rows: height,
    width,
    height,
    columnPixelSpacing: plane.columnPixelSpacing ?? 1,
    rowPixelSpacing: plane.rowPixelSpacing ?? 1,
    slope: 1,
    intercept: 0,
    invert: false,
    minPixelValue: 0,
    maxPixelValue: 255,
    windowCenter: 128,
    windowWidth: 256,
    voiLUTFunction: Enums.VOILUTFunctionType.LINEAR,
    sizeInBytes: rgb.byteLength,
    getPixelData: () => rgb,
    getCanvas: undefined as never,
    voxelManager: utilities.VoxelManager.createImageVoxelManager({
      scalarData: rgb,
      width,
      height,
      numberOfComponents: 3,
    }),
  } as unknown as Types.IImage;
}

/**
 * The windows of an image. The loader's own provider gives VOI LUT Function as text where the loader expects a list: it
 * would read "S" out of "SIGMOID", refuse that, and draw without any window.
 */
function voiMetadata(type: string, imageId: unknown): unknown {
  if (type !== Enums.MetadataModules.VOI_LUT || typeof imageId !== 'string' || previews.has(imageId)) return undefined;
  const ds = wadors.metaDataManager.get(imageId) as unknown as Dataset | undefined;
  if (!ds) return undefined;
  const windowCenter = numbers(ds, '00281050');
  const windowWidth = numbers(ds, '00281051');
  const voiLUTFunction = text(ds, '00281056');
  return {
    windowCenter: windowCenter.length > 0 ? windowCenter : undefined,
    windowWidth: windowWidth.length > 0 ? windowWidth : undefined,
    voiLUTFunction: [['SIGMOID', 'LINEAR_EXACT'].includes(voiLUTFunction) ? voiLUTFunction : 'LINEAR'],
  };
}

/** What a preview's metadata must say so that it is drawn as the 8-bit picture it is. */
function previewMetadata(type: string, imageId: unknown): unknown {
  const size = typeof imageId === 'string' ? previews.get(imageId) : undefined;
  if (!size) return undefined;
  switch (type) {
    case Enums.MetadataModules.IMAGE_PIXEL:
      return {
        samplesPerPixel: 3,
        photometricInterpretation: 'RGB',
        planarConfiguration: 0,
        rows: size.rows,
        columns: size.columns,
        bitsAllocated: 8,
        bitsStored: 8,
        highBit: 7,
        pixelRepresentation: 0,
      };
    case Enums.MetadataModules.VOI_LUT:
      return { windowCenter: [128], windowWidth: [256] };
    case Enums.MetadataModules.MODALITY_LUT:
      return { rescaleIntercept: 0, rescaleSlope: 1 };
    default:
      return undefined;
  }
}

function load(imageId: string, options: Record<string, unknown> = {}): { promise: Promise<Types.IImage> } {
  previews.delete(imageId);
  const frame = wadors.loadImage(imageId, options as never).promise as unknown as Promise<Types.IImage>;
  return {
    promise: watched(imageId, frame).catch((error: unknown) => {
      if ((error as XMLHttpRequest)?.status === 401) unauthorised();
      return preview(imageId);
    }),
  };
}

let started: Promise<void> | undefined;

/** Once: cornerstone, its tools and the loader. */
export function startCornerstone(): Promise<void> {
  started ??= (async () => {
    await coreInit({ rendering: { webGlContextCount: 2 } } as never);
    loader.init({ maxWebWorkers: Math.max(1, Math.min(4, Math.floor((navigator.hardwareConcurrency || 2) / 2))) });
    imageLoader.registerImageLoader('wadors', load as never);
    metaData.addProvider(previewMetadata, 20_000);
    metaData.addProvider(voiMetadata, 20_000);
    await toolsInit();
  })();
  return started;
}

/** Makes a stack's attributes known to the loader. */
export function register(stack: Stack): void {
  for (const image of stack.images) wadors.metaDataManager.add(image.imageId, image.ds as never);
}
