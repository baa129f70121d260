/**
 * How the driver reads the answers to its own questions, whatever the application has set for its: `types`,
 * setTypeParser, pg.defaults.binary.
 */
import type pg from 'pg'

type Read = (value: string) => unknown
const TEXT: Readonly<Record<number, Read>> = {
  16: (v) => v === 't',
  21: Number,
  23: Number,
  114: JSON.parse,
  3802: JSON.parse,
}
const BINARY: Readonly<Record<number, (value: Buffer) => unknown>> = {
  16: (v) => v[0] === 1,
  20: (v) => String(v.readBigInt64BE()),
  21: (v) => v.readInt16BE(),
  23: (v) => v.readInt32BE(),
  114: (v) => JSON.parse(v.toString()),
  3802: (v) => JSON.parse(v.toString('utf8', 1)), // its first byte is the format's version
}

export const OWN_TYPES = {
  getTypeParser: (oid: number, format?: string) =>
    format === 'binary' ? (BINARY[oid] ?? String) : (TEXT[oid] ?? String),
} as unknown as pg.CustomTypesConfig
