package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// rootCache is root's cache: its own (/root/.cache) cannot be reached by the unprivileged user as which Postgres
// has to run.
const rootCache = "/var/cache/tributary"

// cacheDir gives the directory for what is expensive to fetch or make: TRIBUTARY_CACHE if set, else tributary in the
// user's cache directory.
func cacheDir() (string, error) {
	if dir := os.Getenv("TRIBUTARY_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return rootCache, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory (set TRIBUTARY_CACHE to choose one): %w", err)
	}
	return filepath.Join(dir, "tributary"), nil
}

// Cached gives the directory name of the cache. The first time, fill makes its content in an empty directory beside
// it, which is then renamed: a half-made one is never seen, and of several processes one makes it while the others
// wait. What fill leaves must not be changed afterwards.
func Cached(ctx context.Context, name string, fill func(ctx context.Context, dir string) error) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name)
	if exists(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("make cache directory: %w", err)
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(dir) {
		return dir, nil
	}
	making := dir + ".new"
	if err := os.RemoveAll(making); err != nil { // left by a process that was killed in fill
		return "", fmt.Errorf("remove half-made %s: %w", making, err)
	}
	if err := os.Mkdir(making, 0o755); err != nil {
		return "", fmt.Errorf("make cache directory: %w", err)
	}
	if err := fill(ctx, making); err != nil {
		return "", errors.Join(err, os.RemoveAll(making))
	}
	if err := os.Rename(making, dir); err != nil {
		return "", fmt.Errorf("put %s into the cache: %w", name, err)
	}
	return dir, nil
}

// Fetch gets something over the network, with up to three tries: of what is on the way to it something may not answer just then.
func Fetch(ctx context.Context, get func() error) error {
	for wait := time.Second; ; wait *= 2 {
		err := get()
		if err == nil || wait > 2*time.Second {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// ErrLocked says that another process, or another owner in this one, holds a lock.
var ErrLocked = errors.New("in use by another process")

// lock takes an exclusive lock on the file path, waiting for it. It ends with unlock, or with this process.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	err = Poll(ctx, func() (bool, error) {
		unlock, err = TryLock(path)
		if errors.Is(err, ErrLocked) {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return unlock, nil
}

// TryLock is lock without waiting: ErrLocked if somebody has it.
func TryLock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
