// What Go programs do with files, time and goroutines: writes a tree of files, reads it again in many
// ways, and prints only what does not depend on when and where it runs. Built by tests/real/test_wasi.py.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"
)

func must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func main() {
	root := os.Args[1]
	for i := 0; i < 20; i++ {
		folder := filepath.Join(root, fmt.Sprintf("d%d", i%4), "inner")
		must(os.MkdirAll(folder, 0o755))
		text := strings.Repeat(fmt.Sprintf("line %d\n", i), 500+i)
		must(os.WriteFile(filepath.Join(folder, fmt.Sprintf("f%02d", i)), []byte(text), 0o644))
	}
	must(os.Rename(filepath.Join(root, "d0"), filepath.Join(root, "moved")))
	must(os.Symlink("moved/inner/f00", filepath.Join(root, "link")))
	must(os.Chtimes(filepath.Join(root, "moved/inner/f04"), time.Unix(1e9, 5), time.Unix(2e9, 7)))
	_, err := os.Open(filepath.Join(root, "none"))
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	fmt.Println(os.Remove(filepath.Join(root, "moved")) != nil)

	var names []string
	must(filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		must(err)
		names = append(names, fmt.Sprint(strings.TrimPrefix(path, root), " ", entry.Type()))
		return nil
	}))
	sort.Strings(names)
	fmt.Println(strings.Join(names, "\n"))

	// Goroutines read and pack; a timer ticks meanwhile.
	var wait sync.WaitGroup
	sums := make([]string, 20)
	for i := range sums {
		wait.Add(1)
		go func() {
			defer wait.Done()
			time.Sleep(time.Duration(i) * time.Millisecond)
			found, err := filepath.Glob(filepath.Join(root, "*", "inner", fmt.Sprintf("f%02d", i)))
			must(err)
			text, err := os.ReadFile(found[0])
			must(err)
			var packed bytes.Buffer
			out := gzip.NewWriter(&packed)
			_, err = out.Write(text)
			must(err)
			must(out.Close())
			must(os.WriteFile(found[0]+".gz", packed.Bytes(), 0o600))
			sums[i] = fmt.Sprintf("%x", sha256.Sum256(packed.Bytes()))
		}()
	}
	wait.Wait()
	fmt.Println(strings.Join(sums, "\n"))

	file, err := os.OpenFile(filepath.Join(root, "log"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	must(err)
	for i := 0; i < 50; i++ {
		_, err = fmt.Fprintln(file, i, i*i)
		must(err)
	}
	_, err = file.Seek(-20, io.SeekEnd)
	must(err)
	rest, err := io.ReadAll(file)
	must(err)
	fmt.Printf("%q\n", rest)
	must(file.Truncate(100))
	must(file.Close())
	status, err := os.Stat(filepath.Join(root, "moved/inner/f04"))
	must(err)
	fmt.Println(status.Size(), status.ModTime().UnixNano())
	target, err := os.Readlink(filepath.Join(root, "link"))
	must(err)
	fmt.Println(target)
	must(os.RemoveAll(filepath.Join(root, "d1")))
	os.Exit(3)
}
