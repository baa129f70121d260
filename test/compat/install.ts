/**
 * Before `npm run test:compat`: the libraries, if they are not there yet. They depend on pg themselves; their copy
 * is taken away, so that theirs and ours is one (`instanceof pg.Pool`), and that is looked at.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, realpathSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('.', import.meta.url))
const modules = new URL('node_modules/', import.meta.url)
if (!existsSync(modules)) {
  execFileSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: here, stdio: 'inherit' })
  for (const copy of ['pg', '@types/pg']) rmSync(new URL(copy, modules), { recursive: true, force: true })
}
const ours = realpathSync(createRequire(import.meta.url).resolve('pg'))
for (const library of [
  'drizzle-orm/node-postgres',
  'graphile-worker',
  '@prisma/adapter-pg',
  'postgraphile',
  'typeorm',
  'node-pg-migrate',
]) {
  const theirs = realpathSync(createRequire(createRequire(import.meta.url).resolve(library)).resolve('pg'))
  if (theirs !== ours || ours.startsWith(fileURLToPath(modules)))
    throw new Error(`${library} has a pg of its own: ${theirs}, not ${ours}`)
}
