// Goroutines on several threads, timers, preemption by signals, and a fault that becomes a panic.
package main

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"time"
)

func main() {
	var group sync.WaitGroup
	var lock sync.Mutex
	sums := []int{}
	for i := 0; i < 50; i++ {
		group.Add(1)
		go func(n int) {
			defer group.Done()
			sum := 0
			for j := 0; j < 100_000; j++ {
				sum += j % (n + 1)
			}
			time.Sleep(time.Millisecond)
			lock.Lock()
			sums = append(sums, sum)
			lock.Unlock()
		}(i)
	}
	group.Wait()
	sort.Ints(sums)
	fmt.Println(len(sums), sums[0], sums[49], strings.Join(os.Args[1:], ","))
	// A loop without calls can only be preempted by a signal.
	go func() {
		for {
		}
	}()
	time.Sleep(20 * time.Millisecond)
	fmt.Println(time.Since(time.Now()) < time.Minute, len(os.Getenv("PATH")) > 0)
	defer func() {
		fmt.Println("recovered:", recover())
		os.Exit(3)
	}()
	var nowhere *int
	fmt.Println(*nowhere)
}
