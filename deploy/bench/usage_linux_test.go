package main

import (
	"os/exec"
	"testing"
	"time"
)

// TestPeakIsOfTheProgram: what this process has resident when it starts another does not count as the other's.
func TestPeakIsOfTheProgram(t *testing.T) {
	const most = 64 << 20
	ours := make([]byte, 2*most)
	for i := 0; i < len(ours); i += 4096 {
		ours[i] = 1
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	peak := residentPeak(cmd.Process.Pid)
	for deadline := time.Now().Add(10 * time.Second); peak == 0 && time.Now().Before(deadline); { // it has touched nothing yet
		peak = residentPeak(cmd.Process.Pid)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if peak <= 0 || peak > most {
		t.Errorf("the peak of sleep is said to be %d bytes", peak)
	}
	if u := usedBy(cmd.ProcessState, peak); u.peak != peak {
		t.Errorf("%d bytes became %d", peak, u.peak)
	}
	t.Logf("peak %d KiB; wait(2) says %d KiB; we had %d KiB and more", peak>>10, usedBy(cmd.ProcessState, 0).peak, len(ours)>>10)
	_ = ours[0]
}
