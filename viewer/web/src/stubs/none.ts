// Stands in for the mesh readers of vtk.js that the viewer does not carry (see vite.config.ts).

const none = {
  newInstance(): never {
    throw new Error('This reader is not part of the viewer.');
  },
};

export const newInstance = none.newInstance;
export const create = none.newInstance;
export default none;
