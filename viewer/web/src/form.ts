// A plug-in's JSON Schema as form fields, and what was typed as parameters: pure, no page in here.

export interface Schema {
  type?: string | string[];
  title?: string;
  description?: string;
  default?: unknown;
  const?: unknown;
  enum?: unknown[];
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  multipleOf?: number;
  minLength?: number;
  maxLength?: number;
  pattern?: string;
  unit?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  $ref?: string;
  $defs?: Record<string, Schema>;
}

export type Value = number | string | boolean | null;

export interface Field {
  name: string;
  title: string;
  description: string;
  kind: 'number' | 'integer' | 'boolean' | 'choice' | 'text';
  unit: string;
  initial: Value;
  optional: boolean;
  /** Null is a value of its own: "not set". */
  nullable: boolean;
  minimum?: number;
  maximum?: number;
  /** The bound itself is not allowed. */
  openMinimum?: boolean;
  openMaximum?: boolean;
  choices: Value[];
  maxLength?: number;
  pattern?: string;
}

function resolve(schema: Schema, root: Schema, depth = 0): Schema {
  if (depth > 8) return schema;
  const pointer = schema.$ref && /^#\/\$defs\/(.+)$/.exec(schema.$ref)?.[1];
  const target = pointer ? root.$defs?.[pointer] : schema.allOf?.length === 1 ? schema.allOf[0] : undefined;
  if (!target) return schema;
  const { $ref: _ref, allOf: _allOf, ...own } = schema;
  return { ...resolve(target, root, depth + 1), ...own };
}

const UNITS: Record<string, string> = {
  "[hnsf'U]": 'HU',
  um: 'µm',
  mm2: 'mm²',
  cm2: 'cm²',
  mm3: 'mm³',
  cm3: 'cm³',
  ml: 'mL',
  '{pixels}': 'px',
};

/** A UCUM code as people write it. */
export function unitWords(unit: string): string {
  return unit === '1' ? '' : (UNITS[unit] ?? unit);
}

/** Cubic and square millimetres in the units that organs are spoken of in; anything else as it is. */
export function readable(value: number, unit: string): { value: number; unit: string } {
  if (unit === 'mm3') return { value: value / 1000, unit: 'mL' };
  if (unit === 'mm2') return { value: value / 100, unit: 'cm²' };
  return { value, unit: unitWords(unit) };
}

function humanise(name: string): string {
  const words = name.replaceAll('_', ' ').trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The fields of an object schema, in its order. Properties of a kind that no field can show are left to their default. */
export function fields(root: Schema): Field[] {
  return Object.entries(root.properties ?? {}).flatMap(([name, property]) => {
    const field = one(name, resolve(property, root), root);
    return field ? [field] : [];
  });
}

function one(name: string, given: Schema, root: Schema): Field | undefined {
  const branches = given.anyOf ?? given.oneOf;
  let schema = given;
  let optional = false;
  if (branches) {
    const real = branches.map((branch) => resolve(branch, root)).filter((branch) => branch.type !== 'null');
    optional = real.length < branches.length;
    const consts = real.filter((branch) => branch.const !== undefined);
    if (consts.length === real.length && consts.length > 0) schema = { ...given, enum: consts.map((x) => x.const) };
    else if (real.length >= 1) {
      const { anyOf: _anyOf, oneOf: _oneOf, ...own } = given;
      schema = { ...real[0], ...own };
    }
  }
  let type = schema.type;
  if (Array.isArray(type)) {
    optional ||= type.includes('null');
    type = type.find((x) => x !== 'null');
  }
  const choices = (schema.enum ?? (schema.const !== undefined ? [schema.const] : [])).filter((x): x is Value =>
    ['string', 'number', 'boolean'].includes(typeof x),
  );
  const kind =
    choices.length > 0
      ? 'choice'
      : type === 'boolean' || type === 'integer' || type === 'number'
        ? type
        : type === 'string' || type === undefined
          ? 'text'
          : undefined;
  if (!kind) return undefined;
  const fallback = (schema.default ?? null) as Value;
  return {
    name,
    title: given.title ?? schema.title ?? humanise(name),
    description: given.description ?? schema.description ?? '',
    kind,
    unit: given.unit ?? schema.unit ?? '',
    nullable: optional,
    initial: fallback ?? (kind === 'boolean' && !optional ? false : null),
    optional: optional || (kind === 'text' && !(root.required ?? []).includes(name)),
    minimum: schema.minimum ?? schema.exclusiveMinimum,
    maximum: schema.maximum ?? schema.exclusiveMaximum,
    openMinimum: schema.minimum === undefined && schema.exclusiveMinimum !== undefined,
    openMaximum: schema.maximum === undefined && schema.exclusiveMaximum !== undefined,
    choices,
    maxLength: schema.maxLength,
    pattern: schema.pattern,
  };
}

export type Checked = { value: Value } | { problem: string };

/** What was typed, as the field's value; or what is wrong with it, in words. */
export function check(field: Field, typed: string | boolean): Checked {
  if (field.kind === 'boolean') {
    if (typeof typed === 'string') return { value: typed === '' ? null : typed === 'true' };
    return { value: typed };
  }
  const raw = String(typed).trim();
  if (raw === '' && field.kind === 'text' && field.optional && !field.nullable) return { value: '' };
  if (raw === '') return field.optional ? { value: null } : { problem: 'Please fill this in.' };
  if (field.kind === 'choice') {
    const chosen = field.choices.find((choice) => String(choice) === raw);
    return chosen === undefined ? { problem: 'Please choose one of the list.' } : { value: chosen };
  }
  if (field.kind === 'text') {
    if (field.maxLength !== undefined && raw.length > field.maxLength)
      return { problem: `At most ${field.maxLength} characters.` };
    if (field.pattern) {
      try {
        if (!new RegExp(field.pattern, 'u').test(raw)) return { problem: 'This does not have the expected form.' };
      } catch {
        // A pattern that this browser cannot read is left to the server.
      }
    }
    return { value: raw };
  }
  const value = Number(raw.replace(',', '.'));
  if (!Number.isFinite(value)) return { problem: 'This is not a number.' };
  if (field.kind === 'integer' && !Number.isInteger(value)) return { problem: 'This must be a whole number.' };
  const words = unitWords(field.unit);
  const unit = words ? ` ${words}` : '';
  const { minimum, maximum } = field;
  if (minimum !== undefined && (field.openMinimum ? value <= minimum : value < minimum))
    return { problem: `${field.openMinimum ? 'More than' : 'At least'} ${minimum}${unit}.` };
  if (maximum !== undefined && (field.openMaximum ? value >= maximum : value > maximum))
    return { problem: `${field.openMaximum ? 'Less than' : 'At most'} ${maximum}${unit}.` };
  return { value };
}

/** "100 to 3000 HU", '' where there are no bounds. */
export function boundsText(field: Field): string {
  const { minimum, maximum } = field;
  const words = unitWords(field.unit);
  const unit = words ? ` ${words}` : '';
  if (minimum !== undefined && maximum !== undefined) return `${minimum} to ${maximum}${unit}`;
  if (minimum !== undefined) return `${field.openMinimum ? 'more than' : 'at least'} ${minimum}${unit}`;
  if (maximum !== undefined) return `${field.openMaximum ? 'less than' : 'at most'} ${maximum}${unit}`;
  return field.kind !== 'choice' ? words : '';
}
