package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	etcd "go.etcd.io/etcd/client/v3"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/load"
)

// running is a store that serves.
type running struct {
	store   load.Store
	version string
	close   func() error // of the client
}

var stores = map[string]func(context.Context, *processes, *options) (*running, error){
	"manykv": startManykv,
	"etcd":   startEtcd,
	"redis":  startRedis,
}

func storeNames() []string { return slices.Sorted(maps.Keys(stores)) }

const nodes = 3

// startManykv starts `manykv up` with its defaults.
func startManykv(ctx context.Context, p *processes, o *options) (*running, error) {
	program, err := filepath.Abs(o.manykv)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(p.dir, "manykv")
	if err := p.run(program, "up", "--dir", dir, "--shards", fmt.Sprint(o.shards)); err != nil {
		return nil, err
	}
	var c *client.Client
	var b *client.Bucket
	err = await(ctx, func(ctx context.Context) error {
		cfg, err := client.LoadConfig(filepath.Join(dir, "client.toml"))
		if err != nil {
			return err
		}
		cfg.Timeout = callTimeout
		if c == nil {
			if c, err = client.Open(ctx, cfg); err != nil {
				return err
			}
		}
		if err := c.CreateBucket(ctx, "bench"); err != nil && !errors.Is(err, kv.ErrExists) {
			return err
		}
		b, err = c.Bucket(ctx, "bench")
		return err
	})
	if err != nil {
		return nil, err
	}
	return &running{b, "manykv " + strings.TrimPrefix(output(ctx, program, "version"), "manykv "), c.Close}, nil
}

// startEtcd starts three members with etcd's defaults, but room for the revisions that
// the load makes.
func startEtcd(ctx context.Context, p *processes, o *options) (*running, error) {
	const quota = 8 << 30
	free, err := ports(2 * nodes)
	if err != nil {
		return nil, err
	}
	var cluster, endpoints []string
	for i := range nodes {
		cluster = append(cluster, fmt.Sprintf("m%d=http://127.0.0.1:%d", i, free[i]))
		endpoints = append(endpoints, fmt.Sprintf("http://127.0.0.1:%d", free[nodes+i]))
	}
	for i := range nodes {
		peer := fmt.Sprintf("http://127.0.0.1:%d", free[i])
		if err := p.run(o.etcd, "--name", fmt.Sprintf("m%d", i), "--data-dir", filepath.Join(p.dir, fmt.Sprintf("m%d", i)),
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", strings.Join(cluster, ","),
			"--listen-client-urls", endpoints[i], "--advertise-client-urls", endpoints[i],
			"--quota-backend-bytes", fmt.Sprint(quota), "--log-level", "error", "--logger", "zap"); err != nil {
			return nil, err
		}
	}
	c, err := etcd.New(etcd.Config{Endpoints: endpoints})
	if err != nil {
		return nil, err
	}
	if err := await(ctx, func(ctx context.Context) error {
		attempt, done := context.WithTimeout(ctx, time.Second)
		defer done()
		_, err := c.Put(attempt, "ready", "")
		return err
	}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &running{etcdStore{c}, strings.Replace(output(ctx, o.etcd, "--version"), "etcd Version:", "etcd", 1), c.Close}, nil
}

type etcdStore struct{ c *etcd.Client }

func (s etcdStore) GetMany(ctx context.Context, keys []string) ([]*kv.Pair, error) {
	out := make([]*kv.Pair, len(keys))
	if len(keys) == 1 {
		got, err := s.c.Get(ctx, keys[0])
		if err != nil {
			return nil, err
		}
		for _, pair := range got.Kvs {
			out[0] = &kv.Pair{Key: keys[0], Value: pair.Value}
		}
		return out, nil
	}
	ops := make([]etcd.Op, len(keys))
	for i, key := range keys {
		ops[i] = etcd.OpGet(key)
	}
	got, err := s.c.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, err
	}
	for i, r := range got.Responses {
		for _, pair := range r.GetResponseRange().Kvs {
			out[i] = &kv.Pair{Key: keys[i], Value: pair.Value}
		}
	}
	return out, nil
}

// SetMany puts a key once, its last value: a Txn refuses one that is put twice.
func (s etcdStore) SetMany(ctx context.Context, pairs []kv.Pair) error {
	if len(pairs) == 1 {
		_, err := s.c.Put(ctx, pairs[0].Key, string(pairs[0].Value))
		return err
	}
	last := make(map[string]int, len(pairs))
	for i := range pairs {
		last[pairs[i].Key] = i
	}
	var ops []etcd.Op
	for i := range pairs {
		if last[pairs[i].Key] == i {
			ops = append(ops, etcd.OpPut(pairs[i].Key, string(pairs[i].Value)))
		}
	}
	_, err := s.c.Txn(ctx).Then(ops...).Commit()
	return err
}

func (s etcdStore) DeleteMany(ctx context.Context, keys []string) error {
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	ops := make([]etcd.Op, len(keys))
	for i, key := range keys {
		ops[i] = etcd.OpDelete(key)
	}
	_, err := s.c.Txn(ctx).Then(ops...).Commit()
	return err
}

// startRedis starts a primary and two replicas that sync every command.
func startRedis(ctx context.Context, p *processes, o *options) (*running, error) {
	free, err := ports(nodes)
	if err != nil {
		return nil, err
	}
	for i, port := range free {
		dir := filepath.Join(p.dir, fmt.Sprintf("r%d", i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		args := []string{"--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--dir", dir, "--appendonly", "yes", "--appendfsync", "always", "--save", ""}
		if i > 0 {
			args = append(args, "--replicaof", "127.0.0.1", fmt.Sprint(free[0]))
		}
		if err := p.run(o.redis, args...); err != nil {
			return nil, err
		}
	}
	c := redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", free[0]), PoolSize: 1 << 7, ReadTimeout: callTimeout, WriteTimeout: callTimeout})
	if err := await(ctx, func(ctx context.Context) error {
		if err := c.Set(ctx, "ready", "", 0).Err(); err != nil {
			return err
		}
		if got, err := c.Wait(ctx, nodes-1, time.Second).Result(); err != nil || got < nodes-1 {
			return fmt.Errorf("%d replicas have the first write, want %d: %w", got, nodes-1, err)
		}
		return nil
	}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	version, err := exec.CommandContext(ctx, o.redis, "--version").Output()
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	words := strings.Fields(string(version))
	return &running{redisStore{c}, "Redis " + strings.TrimPrefix(words[2], "v="), c.Close}, nil
}

type redisStore struct{ c *redis.Client }

func (s redisStore) GetMany(ctx context.Context, keys []string) ([]*kv.Pair, error) {
	got, err := s.c.MGet(ctx, keys...).Result()
	if err != nil {
		return nil, err
	}
	out := make([]*kv.Pair, len(keys))
	for i, value := range got {
		if text, ok := value.(string); ok {
			out[i] = &kv.Pair{Key: keys[i], Value: []byte(text)}
		}
	}
	return out, nil
}

func (s redisStore) SetMany(ctx context.Context, pairs []kv.Pair) error {
	args := make([]any, 0, 2*len(pairs))
	for i := range pairs {
		args = append(args, pairs[i].Key, pairs[i].Value)
	}
	return s.replicated(ctx, func(p redis.Pipeliner) { p.MSet(ctx, args...) })
}

func (s redisStore) DeleteMany(ctx context.Context, keys []string) error {
	return s.replicated(ctx, func(p redis.Pipeliner) { p.Del(ctx, keys...) })
}

// replicated sends a command and WAIT 1 in one go, on one connection, which WAIT is
// about.
func (s redisStore) replicated(ctx context.Context, command func(redis.Pipeliner)) error {
	pipe := s.c.Pipeline()
	command(pipe)
	replicas := redis.NewIntCmd(ctx, "wait", 1, 0)
	_ = pipe.Process(ctx, replicas) // Exec says what became of it
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	if n, err := replicas.Result(); err != nil || n < 1 {
		return fmt.Errorf("%d replicas have it, want 1: %w", n, err)
	}
	return nil
}
