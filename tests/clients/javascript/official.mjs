// What programs do with the official JavaScript client, against the cluster of $KUBECONFIG. Run by the suite `clients`.

import assert from 'node:assert/strict';
import { PassThrough, Writable } from 'node:stream';
import { after, before, test } from 'node:test';

import {
    ADD, AppsV1Api, CoreV1Api, DELETE, Exec, KubeConfig, KubernetesObjectApi, Log, makeInformer, Metrics, PatchStrategy,
    PortForward, setHeaderOptions, topPods, UPDATE, Watch,
} from '@kubernetes/client-node';

const namespace = 'javascript';
const patience = 60_000;
const config = new KubeConfig();
config.loadFromFile(process.env.KUBECONFIG);
const core = config.makeApiClient(CoreV1Api);
const apps = config.makeApiClient(AppsV1Api);

const nap = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(what, check) {
    for (const end = Date.now() + patience; Date.now() < end; await nap(50)) {
        const found = await check();
        if (found) return found;
    }
    throw new Error(`not within ${patience} ms: ${what}`);
}

async function refused(code, reason, call) {
    const error = await call.then(() => assert.fail(`${code} was expected`), (error) => error);
    assert.equal(error.code, code, String(error));
    const status = JSON.parse(error.body);
    assert.deepEqual([status.kind, status.code, status.reason], ['Status', code, reason]);
    return status;
}

/** Tells the suite what has been seen to work, for docs/compatibility.md. */
const feature = (...names) => names.forEach((name) => console.log(`feature: ${name} ok`));

const map = (name, data, labels) => ({ metadata: { name, labels }, data });
const pod = (name, command) => ({
    metadata: { name, labels: { app: name } },
    spec: { containers: [{ name: 'c', image: 'any', command }] },
});
const create = (body) => core.createNamespacedConfigMap({ namespace, body });

class Collected extends Writable {
    text = '';
    _write(chunk, _encoding, done) {
        this.text += chunk;
        done();
    }
}

before(() => core.createNamespace({ body: { metadata: { name: namespace } } }));

after(async () => {
    await core.deleteNamespace({ name: namespace });
    await until('the namespace is gone', () => core.readNamespace({ name: namespace }).then(() => false, (e) => e.code === 404));
});

test('objects are made, changed and deleted', async () => {
    const made = await create(map('one', { a: '1' }));
    assert.ok(made.metadata.uid && made.metadata.creationTimestamp instanceof Date);
    await refused(409, 'AlreadyExists', create(map('one')));
    const stale = await core.readNamespacedConfigMap({ name: 'one', namespace });
    stale.data.b = '2';
    await core.replaceNamespacedConfigMap({ name: 'one', namespace, body: stale });
    await refused(409, 'Conflict', core.replaceNamespacedConfigMap({ name: 'one', namespace, body: stale }));
    const merge = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);
    const merged = await core.patchNamespacedConfigMap({ name: 'one', namespace, body: { data: { a: null, c: '3' } } }, merge);
    assert.deepEqual(merged.data, { b: '2', c: '3' });
    const steps = [{ op: 'remove', path: '/data/b' }];
    const patched = await core.patchNamespacedConfigMap({ name: 'one', namespace, body: steps });
    assert.deepEqual(patched.data, { c: '3' });
    assert.equal((await core.deleteNamespacedConfigMap({ name: 'one', namespace })).status, 'Success');
    await refused(404, 'NotFound', core.readNamespacedConfigMap({ name: 'one', namespace }));
    feature('objects: create, get, update, delete', 'JSON patch', 'merge patch');
});

test('what is invalid is named', async () => {
    const bad = pod('Bad', ['true']);
    delete bad.spec.containers[0].name;
    const status = await refused(422, 'Invalid', core.createNamespacedPod({ namespace, body: bad }));
    assert.deepEqual(status.details.causes.map((cause) => cause.field).sort(), ['metadata.name', 'spec.containers[0].name']);
    feature('refusals with reason and causes');
});

test('a watch tells what happens, in order', async () => {
    const { metadata } = await core.listNamespacedConfigMap({ namespace });
    const seen = [];
    let request;
    const over = new Promise((done, failed) => {
        const path = `/api/v1/namespaces/${namespace}/configmaps`;
        const query = { resourceVersion: metadata.resourceVersion, labelSelector: 'watched', allowWatchBookmarks: true };
        const take = (type, object) => {
            if (type !== 'BOOKMARK') seen.push([type, object.data.v]);
            if (type === 'DELETED') done();
        };
        request = new Watch(config).watch(path, query, take, failed);
    });
    await create(map('unseen', { v: '0' }));
    await create(map('seen', { v: '1' }, { watched: 'yes' }));
    await core.patchNamespacedConfigMap({ name: 'seen', namespace, body: [{ op: 'replace', path: '/data/v', value: '2' }] });
    await core.deleteNamespacedConfigMap({ name: 'seen', namespace });
    await over;
    (await request).abort();
    assert.deepEqual(seen, [['ADDED', '1'], ['MODIFIED', '2'], ['DELETED', '2']]);
    feature('watch');
});

test('an informer is a picture of what there is', async () => {
    await create(map('old', {}, { informed: 'yes' }));
    const labelSelector = 'informed';
    const list = () => core.listNamespacedConfigMap({ namespace, labelSelector });
    const informer = makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list, labelSelector);
    const told = [];
    for (const verb of [ADD, UPDATE, DELETE]) informer.on(verb, (object) => told.push(`${verb} ${object.metadata.name}`));
    await informer.start();
    await create(map('new', {}, { informed: 'yes' }));
    await until('new is there', () => informer.get('new', namespace));
    await core.patchNamespacedConfigMap({ name: 'new', namespace, body: [{ op: 'add', path: '/data', value: { x: 'y' } }] });
    await until('it has changed', () => informer.get('new', namespace).data?.x === 'y');
    await core.deleteNamespacedConfigMap({ name: 'old', namespace });
    await until('old is gone', () => !informer.get('old', namespace));
    assert.deepEqual(told, ['add old', 'add new', 'update new', 'delete old']);
    await informer.stop();
    feature('informer, controller');
});

test('objects of any kind are applied by who owns their fields', async () => {
    const any = KubernetesObjectApi.makeApiClient(config);
    const of = (data) => ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'shared', namespace }, data });
    const apply = (manager, data, force) => any.patch(of(data), undefined, undefined, manager, force, PatchStrategy.ServerSideApply);
    await apply('one', { a: '1' });
    await apply('two', { b: '2' });
    const status = await refused(409, 'Conflict', apply('two', { a: 'changed' }));
    assert.deepEqual(status.details.causes.map(({ reason, field }) => [reason, field]), [['FieldManagerConflict', '.data.a']]);
    assert.deepEqual((await apply('two', { a: 'changed' }, true)).data, { a: 'changed' });
    assert.equal((await any.read(of())).data.a, 'changed');
    await any.delete(of());
    feature('server-side apply');
});

test('a deployment comes up, and its pods use something', async () => {
    const labels = { app: 'web' };
    const template = { metadata: { labels }, spec: { containers: [{ name: 'c', image: 'any' }] } };
    const body = { metadata: { name: 'web' }, spec: { replicas: 2, selector: { matchLabels: labels }, template } };
    await apps.createNamespacedDeployment({ namespace, body });
    const status = () => apps.readNamespacedDeploymentStatus({ name: 'web', namespace });
    await until('two pods', async () => (await status()).status.availableReplicas === 2);
    const scale = await apps.readNamespacedDeploymentScale({ name: 'web', namespace });
    scale.spec.replicas = 1;
    await apps.replaceNamespacedDeploymentScale({ name: 'web', namespace, body: scale });
    await until('one pod', async () => (await status()).status.replicas === 1);
    const used = await until('usage', async () => {
        const pods = await topPods(core, new Metrics(config), namespace).catch(() => []);
        return pods.find((top) => top.Pod.metadata.labels?.app === 'web' && top.Containers.length === 1);
    });
    assert.equal(used.Containers[0].Container, 'c');
    feature('scale', 'status', 'usage (metrics.k8s.io)');
});

test('containers are talked to', async () => {
    await core.createNamespacedPod({ namespace, body: pod('talks', ['sh', '-c', 'echo hello; sleep 3600']) });
    await until('it runs', async () => (await core.readNamespacedPod({ name: 'talks', namespace })).status.phase === 'Running');
    const log = new Collected();
    const following = await new Log(config).log(namespace, 'talks', 'c', log, { follow: true });
    await until('its log', () => log.text === 'hello\n');
    following.abort();
    const said = new Collected();
    const status = await new Promise((done, failed) => {
        new Exec(config)
            .exec(namespace, 'talks', 'c', ['sh', '-c', 'echo inside; exit 5'], said, new Collected(), null, false, done)
            .catch(failed);
    });
    assert.equal(said.text, 'inside\n');
    assert.equal(status.details.causes.find((cause) => cause.reason === 'ExitCode').message, '5');
    const [input, echoed] = [new PassThrough(), new Collected()];
    const socket = await new Exec(config).exec(namespace, 'talks', 'c', ['cat'], echoed, null, input, false);
    input.write('there and back');
    await until('it comes back', () => echoed.text === 'there and back');
    socket.close();
    feature('logs', 'exec');
});

test('ports are forwarded', async () => {
    const body = pod('listens', ['sleep', '3600']);
    body.metadata.annotations = { 'simulated.warren.dev/listen': '7000' };
    await core.createNamespacedPod({ namespace, body });
    await until('it runs', async () => (await core.readNamespacedPod({ name: 'listens', namespace })).status.phase === 'Running');
    const forward = new PortForward(config);
    const [input, back, errors] = [new PassThrough(), new Collected(), new Collected()];
    const socket = await forward.portForward(namespace, 'listens', [7000], back, errors, input);
    const sent = 'there and back '.repeat(10_000);
    input.write(sent);
    await until('it comes back', () => back.text.length >= sent.length);
    assert.equal(back.text, sent);
    assert.equal(errors.text, '');
    socket.close();
    await forward.portForward(namespace, 'listens', [7001], new Collected(), errors, new PassThrough());
    await until('the error', () => errors.text.includes('connection refused'));
    feature('port-forward');
});
