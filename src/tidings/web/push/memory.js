/**
 * What this browser remembers about push: one record per worker scope, in IndexedDB, because the service worker needs it
 * to renew a rotated subscription while no page is open. `sw.js` reads and writes the same records.
 *
 * A record says who asked for notifications and what was last reported. It does not say whether the subscription works:
 * only the server knows that.
 */

/**
 * @typedef {object} UserMemory
 * @property {boolean} wanted true after the user turned notifications on, false after the user turned them off
 * @property {string} [endpoint] last confirmed by the server
 * @property {string} [id] of the subscription at the server
 */
/**
 * @typedef {object} ScopeMemory
 * @property {string} scope absolute URL of the worker's scope
 * @property {string | null} owner user whose messages this scope's subscription receives; null = nobody
 * @property {string | null} endpoint of the owner's subscription
 * @property {string | null} auth its secret, base64url, with which the worker proves a renewal
 * @property {ArrayBuffer | null} key the VAPID key that it was made with
 * @property {string | null} apiBase absolute URL of the API
 * @property {Map<string, UserMemory>} users
 */

const DATABASE = "tidings-push";
const STORE = "scopes";
/** Used while IndexedDB is blocked: the page then works, but forgets everything when it is closed.
 * @type {Map<string, ScopeMemory>} */
const volatile = new Map();

/** @param {string} scope absolute URL @returns {Promise<ScopeMemory>} an empty record if there is none */
export async function readMemory(scope) {
  return (await readMemories()).get(scope) ?? emptyMemory(scope);
}

/** @returns {Promise<Map<string, ScopeMemory>>} all records by scope */
export async function readMemories() {
  /** @type {ScopeMemory[] | undefined} */
  const records = await inStore("readonly", (store) => store.getAll());
  return new Map((records ?? [...volatile.values()]).map((record) => [record.scope, record]));
}

/**
 * Change a record. Callers hold the lock of `exclusively`, so that no other tab changes it at the same time.
 * @param {string} scope absolute URL
 * @param {(memory: ScopeMemory) => void} change
 */
export async function changeMemory(scope, change) {
  const memory = await readMemory(scope);
  change(memory);
  volatile.set(scope, memory);
  await inStore("readwrite", (store) => store.put(memory));
}

/** @param {ScopeMemory} memory whose subscription no longer belongs to anybody */
export function forgetOwner(memory) {
  Object.assign(memory, { owner: null, endpoint: null, auth: null, key: null });
}

/** @param {string} scope @returns {ScopeMemory} */
function emptyMemory(scope) {
  return { scope, owner: null, endpoint: null, auth: null, key: null, apiBase: null, users: new Map() };
}

/**
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest} work
 * @returns {Promise<any>} the request's result once it is stored, undefined if storage is blocked
 */
async function inStore(mode, work) {
  let database;
  try {
    database = await openDatabase();
  } catch (error) {
    console.info("tidings: storage is blocked; this page forgets its push subscription when it is closed", error);
    return undefined;
  }
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const request = work(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

/** @returns {Promise<IDBDatabase>} */
function openDatabase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "scope" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
