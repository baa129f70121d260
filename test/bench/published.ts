/**
 * The driver as it is published: compiled. From its source, tsx gives each function its name whenever one is made,
 * which is a tenth of what the driver takes for a read.
 */
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type * as Driver from '../../driver/index.ts'

const ROOT = new URL('../..', import.meta.url)
const BUILT = `PG_QUORUM_BUILT_${fileURLToPath(ROOT)}`

/** Builds it first, once for a process and its children. */
export async function published(): Promise<typeof Driver> {
  if (process.env[BUILT] === undefined)
    execFileSync('npm', ['run', '--silent', 'build'], { cwd: fileURLToPath(ROOT), stdio: 'inherit' })
  process.env[BUILT] = 'yes'
  return (await import(new URL('dist/index.js', ROOT).href)) as typeof Driver
}
