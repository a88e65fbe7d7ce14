// Package kubernetes holds manifests for kustomize. Its test builds them as kubectl does, and checks them without a
// cluster: against the types of the API, and against the services' own configuration.
package kubernetes

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/tributary-cdc/tributary/capture"
	"github.com/tributary-cdc/tributary/deploy/grafana"
	"github.com/tributary-cdc/tributary/pkg/config"
	"github.com/tributary-cdc/tributary/sink"
)

// built is what an overlay gives.
type built struct {
	pods       map[string]*corev1.PodTemplateSpec // by the workload's kind and name
	replicas   map[string]*int32
	configs    map[string]*corev1.ConfigMap
	budgets    []*policyv1.PodDisruptionBudget
	scalers    []*autoscalingv2.HorizontalPodAutoscaler
	policies   []*networkingv1.NetworkPolicy
	services   []*corev1.Service
	monitors   []*monitoringv1.PodMonitor
	rules      []*monitoringv1.PrometheusRule
	namespaces []string
}

// build gives the base with components, as an overlay of somebody's own has them.
func build(t *testing.T, components ...string) *built {
	t.Helper()
	here, err := filepath.Abs(".")
	must(t, err)
	overlay, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	here, err = filepath.Rel(overlay, here)
	must(t, err)
	text := "resources: [" + filepath.Join(here, "base") + "]\ncomponents:\n"
	for _, c := range components {
		text += "  - " + filepath.Join(here, c) + "\n"
	}
	must(t, os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), []byte(text), 0o600))
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), overlay)
	must(t, err)
	b := &built{pods: map[string]*corev1.PodTemplateSpec{}, replicas: map[string]*int32{}, configs: map[string]*corev1.ConfigMap{}}
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		must(t, err)
		into := func(v any) {
			t.Helper()
			if err := yaml.UnmarshalStrict(text, v); err != nil {
				t.Fatalf("%s: %v", r.CurId(), err)
			}
		}
		name := r.GetKind() + " " + r.GetName()
		if r.GetKind() != "Namespace" {
			b.namespaces = append(b.namespaces, r.GetNamespace())
		}
		switch r.GetApiVersion() + " " + r.GetKind() {
		case "v1 Namespace":
			into(&corev1.Namespace{})
		case "v1 ConfigMap":
			v := &corev1.ConfigMap{}
			into(v)
			b.configs[v.Name] = v
		case "v1 Service":
			v := &corev1.Service{}
			into(v)
			b.services = append(b.services, v)
		case "apps/v1 StatefulSet":
			v := &appsv1.StatefulSet{}
			into(v)
			if v.Spec.PodManagementPolicy != appsv1.ParallelPodManagement {
				t.Errorf("%s never replaces a pod that is not ready", name)
			}
			b.workload(t, name, v.Spec.Selector, &v.Spec.Template, v.Spec.Replicas)
		case "apps/v1 Deployment":
			v := &appsv1.Deployment{}
			into(v)
			b.workload(t, name, v.Spec.Selector, &v.Spec.Template, v.Spec.Replicas)
		case "policy/v1 PodDisruptionBudget":
			v := &policyv1.PodDisruptionBudget{}
			into(v)
			if policy := v.Spec.UnhealthyPodEvictionPolicy; policy == nil || *policy != policyv1.AlwaysAllow {
				t.Errorf("%s keeps a node from being drained where pods are not ready", name)
			}
			b.budgets = append(b.budgets, v)
		case "autoscaling/v2 HorizontalPodAutoscaler":
			v := &autoscalingv2.HorizontalPodAutoscaler{}
			into(v)
			b.scalers = append(b.scalers, v)
		case "networking.k8s.io/v1 NetworkPolicy":
			v := &networkingv1.NetworkPolicy{}
			into(v)
			b.policies = append(b.policies, v)
		case "monitoring.coreos.com/v1 PodMonitor":
			v := &monitoringv1.PodMonitor{}
			into(v)
			b.monitors = append(b.monitors, v)
		case "monitoring.coreos.com/v1 PrometheusRule":
			v := &monitoringv1.PrometheusRule{}
			into(v)
			b.rules = append(b.rules, v)
		default:
			t.Errorf("nothing checks %s", r.CurId())
		}
	}
	return b
}

func (b *built) workload(t *testing.T, name string, selector *metav1.LabelSelector, pod *corev1.PodTemplateSpec, replicas *int32) {
	t.Helper()
	if !selects(t, selector, pod) {
		t.Errorf("%s does not select its own pods", name)
	}
	b.pods[name], b.replicas[name] = pod, replicas
}

func selects(t *testing.T, selector *metav1.LabelSelector, pod *corev1.PodTemplateSpec) bool {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	must(t, err)
	return s.Matches(labels.Set(pod.Labels))
}

// The base, alone and with components, is what the API takes, and its pods are as small and as bounded as they can be.
func TestOverlays(t *testing.T) {
	const captures, sinks = "tributary-capture", "Deployment tributary-sink"
	for together, want := range map[string]struct {
		capture  string
		replicas int32
	}{
		"":                            {"StatefulSet " + captures, 1},
		"monitoring":                  {"StatefulSet " + captures, 1},
		"tls":                         {"StatefulSet " + captures, 1},
		"two-captures":                {"Deployment " + captures, 2},
		"two-captures tls monitoring": {"Deployment " + captures, 2},
		"monitoring tls two-captures": {"Deployment " + captures, 2},
	} {
		t.Run(together, func(t *testing.T) {
			components := strings.Fields(together)
			b := build(t, components...)
			if len(b.pods) != 2 || b.pods[want.capture] == nil || b.pods[sinks] == nil {
				t.Fatalf("workloads are %v", b.pods)
			}
			if n := b.replicas[want.capture]; n == nil || *n != want.replicas {
				t.Errorf("%s has %v replicas, want %d", want.capture, n, want.replicas)
			}
			if b.replicas[sinks] != nil {
				t.Error("the sinks' number is said twice: it is the autoscaler's")
			}
			if standby := slices.Contains(b.pods[want.capture].Spec.Containers[0].Args, "--standby"); standby != (want.replicas > 1) {
				t.Errorf("--standby is %t with %d captures", standby, want.replicas)
			}
			if slices.Contains(components, "monitoring") {
				checkMonitors(t, b)
			} else if len(b.monitors)+len(b.rules) > 0 {
				t.Error("it needs an operator")
			}
			for _, ns := range b.namespaces {
				if ns != "tributary" {
					t.Errorf("something is in namespace %q", ns)
				}
			}
			for name, pod := range b.pods {
				t.Run(name, func(t *testing.T) { checkPod(t, b, pod) })
			}
			for name, pod := range b.pods {
				budgets := 0
				for _, budget := range b.budgets {
					if selects(t, budget.Spec.Selector, pod) && budget.Spec.MaxUnavailable.IntValue() == 1 {
						budgets++
					}
				}
				// One alone has none: it would keep its node from being drained, or mean nothing.
				if several := name == sinks || want.replicas > 1; several != (budgets == 1) || budgets > 1 {
					t.Errorf("%d disruption budgets are of %s", budgets, name)
				}
			}
			if len(b.scalers) != 1 || b.scalers[0].Spec.ScaleTargetRef.Kind+" "+b.scalers[0].Spec.ScaleTargetRef.Name != sinks {
				t.Error("no autoscaler scales the sinks")
			}
			checkScale(t, b.scalers[0])
			for _, s := range b.services {
				if !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(b.pods[want.capture].Labels)) {
					t.Errorf("service %s selects nobody", s.Name)
				}
			}
		})
	}
}

// checkScale: the sinks' number goes by a metric that they have, of whichever group the namespace's is, and that the page's rule
// for the adapter gives.
func checkScale(t *testing.T, scaler *autoscalingv2.HorizontalPodAutoscaler) {
	t.Helper()
	metrics, err := os.ReadFile("../../docs/reference/metrics.md")
	must(t, err)
	page, err := os.ReadFile("../../docs/operations/install.md")
	must(t, err)
	for _, m := range scaler.Spec.Metrics {
		if m.External == nil || m.External.Metric.Selector != nil {
			t.Fatalf("the sinks are scaled by %+v", m)
		}
		name := m.External.Metric.Name
		if !strings.Contains(string(metrics), "\n| `"+name+"` | gauge |") || !strings.Contains(string(page), "seriesQuery: "+name+"\n") {
			t.Errorf("there is no %s, or no rule for it", name)
		}
	}
}

// checkMonitors: Prometheus finds the metrics of every pod, is let in, and has the alerts.
func checkMonitors(t *testing.T, b *built) {
	if len(b.monitors) != 1 || len(b.rules) != 1 || len(b.monitors[0].Spec.PodMetricsEndpoints) != 1 {
		t.Fatalf("%d monitors, %d rules", len(b.monitors), len(b.rules))
	}
	from := b.monitors[0].Spec.PodMetricsEndpoints[0]
	for name, pod := range b.pods {
		port := pod.Spec.Containers[0].Ports[0]
		if !selects(t, &b.monitors[0].Spec.Selector, pod) || from.Port == nil || *from.Port != port.Name || from.Path != "/metrics" {
			t.Errorf("%s is not monitored", name)
		}
		if !slices.ContainsFunc(b.policies, func(p *networkingv1.NetworkPolicy) bool {
			return selects(t, &p.Spec.PodSelector, pod) && slices.ContainsFunc(p.Spec.Ingress, func(rule networkingv1.NetworkPolicyIngressRule) bool {
				return slices.ContainsFunc(rule.Ports, func(open networkingv1.NetworkPolicyPort) bool { return open.Port.IntVal == port.ContainerPort })
			})
		}) {
			t.Errorf("no policy lets anybody ask %s", name)
		}
	}
	want, err := grafana.Alerts()
	must(t, err)
	var rules []monitoringv1.Rule
	for _, g := range b.rules[0].Spec.Groups {
		rules = append(rules, g.Rules...)
	}
	if len(rules) != len(want) {
		t.Fatalf("%d alerts, want %d", len(rules), len(want))
	}
	for i, r := range rules {
		w := &want[i]
		wait := ""
		if r.For != nil {
			wait = string(*r.For)
		}
		if r.Alert != w.Name || r.Expr.String() != w.Expr || wait != w.For || !maps.Equal(r.Labels, w.Labels) || !maps.Equal(r.Annotations, w.Annotations) {
			t.Errorf("%s is %+v, want %+v", w.Name, r, w)
		}
	}
}

func checkPod(t *testing.T, b *built, pod *corev1.PodTemplateSpec) {
	spec := pod.Spec
	if s := spec.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser != 65532 || s.SeccompProfile == nil {
		t.Error("it may run as root, or without seccomp")
	}
	if spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
		t.Error("it gets a token of the cluster that it does not need")
	}
	if len(spec.Containers) != 1 {
		t.Fatalf("%d containers", len(spec.Containers))
	}
	c := spec.Containers[0]
	s := c.SecurityContext
	if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
		s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") {
		t.Error("the container may do more than it needs")
	}
	limit, request := c.Resources.Limits.Memory(), c.Resources.Requests.Memory()
	if limit.IsZero() || request.IsZero() || limit.Cmp(*request) < 0 || c.Resources.Requests.Cpu().IsZero() {
		t.Errorf("resources are %v", c.Resources)
	}
	for _, e := range c.Env {
		if e.Name != "GOMEMLIMIT" { // secrets are files
			t.Errorf("environment has %s", e.Name)
			continue
		}
		n, ok := strings.CutSuffix(e.Value, "MiB")
		mib, err := strconv.ParseInt(n, 10, 64)
		if most := limit.Value() >> 20; !ok || err != nil || mib >= most || mib < most*3/4 {
			t.Errorf("GOMEMLIMIT is %s with a limit of %d MiB", e.Value, most)
		}
	}
	if l, r := c.LivenessProbe, c.ReadinessProbe; l == nil || r == nil || l.HTTPGet == nil || r.HTTPGet == nil || l.HTTPGet.Path != "/healthz" || r.HTTPGet.Path != "/readyz" {
		t.Error("probes are not those of the service")
	}
	checkConfig(t, b, pod)
}

// checkConfig loads the configuration as the container would: what is mounted where, what it listens at, whom it may ask.
func checkConfig(t *testing.T, b *built, pod *corev1.PodTemplateSpec) {
	c := pod.Spec.Containers[0]
	files, mounted := map[string]string{}, []string{}
	for _, m := range c.VolumeMounts {
		at := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if at < 0 {
			t.Fatalf("no volume %s", m.Name)
		}
		mounted = append(mounted, m.MountPath+"/")
		if v := pod.Spec.Volumes[at].ConfigMap; v != nil {
			if b.configs[v.Name] == nil {
				t.Fatalf("no ConfigMap %s", v.Name)
			}
			for name, text := range b.configs[v.Name].Data {
				files[filepath.Join(m.MountPath, name)] = text
			}
		}
	}
	at := slices.Index(c.Args, "-c")
	if at < 0 || c.Args[0] != "run" {
		t.Fatalf("arguments are %v", c.Args)
	}
	text, ok := files[c.Args[at+1]]
	if !ok {
		t.Fatalf("%s is not mounted", c.Args[at+1])
	}
	for word := range strings.FieldsSeq(text) {
		if path := strings.TrimPrefix(word, "file:"); strings.HasPrefix(path, "/run/") &&
			!slices.ContainsFunc(mounted, func(m string) bool { return strings.HasPrefix(path, m) }) {
			t.Errorf("%s is not mounted", path)
		}
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	var pages config.HTTP
	var registry string
	var brokers []string
	if c.Name == "capture" {
		var cfg capture.Config
		must(t, config.Load(file, &cfg))
		pages, registry, brokers = cfg.HTTP, cfg.Registry.URL, cfg.Kafka.Brokers
	} else {
		var cfg sink.Config
		must(t, config.Load(file, &cfg))
		pages, registry, brokers = cfg.HTTP, cfg.Registry.URL, cfg.Kafka.Brokers
	}
	if want := fmt.Sprintf("0.0.0.0:%d", c.Ports[0].ContainerPort); pages.Listen != want {
		t.Errorf("it listens at %s, its port is %s", pages.Listen, want)
	}
	if overTLS := c.LivenessProbe.HTTPGet.Scheme == corev1.URISchemeHTTPS; overTLS != pages.TLS.Enabled() || c.ReadinessProbe.HTTPGet.Scheme != c.LivenessProbe.HTTPGet.Scheme {
		t.Errorf("probes ask over TLS: %t, the pages have it: %t", overTLS, pages.TLS.Enabled())
	}
	address, err := url.Parse(registry)
	must(t, err)
	for _, to := range append(brokers, address.Host, "database:5432", "issuer:443") {
		_, port, err := net.SplitHostPort(to)
		must(t, err)
		if !maySend(t, b, pod, port) {
			t.Errorf("no policy lets it ask %s", to)
		}
	}
}

func maySend(t *testing.T, b *built, pod *corev1.PodTemplateSpec, port string) bool {
	t.Helper()
	for _, p := range b.policies {
		if !selects(t, &p.Spec.PodSelector, pod) {
			continue
		}
		for _, rule := range p.Spec.Egress {
			if slices.ContainsFunc(rule.Ports, func(open networkingv1.NetworkPolicyPort) bool { return open.Port.String() == port }) {
				return true
			}
		}
	}
	return false
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
