// Package deploy tests what stands in deploy/: here what can be read and
// checked without anything running, in engine what a Docker engine runs.
package deploy

import (
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// manifest is deploy/kubernetes.yaml as Kubernetes reads it.
type manifest struct {
	secret     corev1.Secret
	deployment appsv1.Deployment
	service    corev1.Service
	disruption policyv1.PodDisruptionBudget
	network    networkingv1.NetworkPolicy
}

func readManifest(t *testing.T) *manifest {
	t.Helper()
	text, err := os.ReadFile("../../deploy/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest{}
	wanted := map[string]any{
		"v1 Secret":                          &m.secret,
		"apps/v1 Deployment":                 &m.deployment,
		"v1 Service":                         &m.service,
		"policy/v1 PodDisruptionBudget":      &m.disruption,
		"networking.k8s.io/v1 NetworkPolicy": &m.network,
	}
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var is metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &is); err != nil {
			t.Fatal(err)
		}
		name := is.APIVersion + " " + is.Kind
		into, ok := wanted[name]
		if !ok {
			t.Errorf("%s: not wanted, or there twice", name)
			continue
		}
		delete(wanted, name)
		text, err := yaml.YAMLToJSONStrict([]byte(document))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		unknown, err := json.UnmarshalStrict(text, into) // heeds upper and lower case, as the API does
		for _, err := range append(unknown, err) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for name := range wanted {
		t.Errorf("%s: missing", name)
	}
	if t.Failed() || len(m.deployment.Spec.Template.Spec.Containers) != 1 {
		t.FailNow()
	}
	return m
}

// flag returns the value of a flag of the container.
func (m *manifest) flag(t *testing.T, name string) string {
	t.Helper()
	for _, arg := range m.container().Args {
		if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
			return value
		}
	}
	t.Fatalf("no --%s", name)
	return ""
}

func (m *manifest) container() *corev1.Container {
	return &m.deployment.Spec.Template.Spec.Containers[0]
}

func (m *manifest) seconds(t *testing.T, flag string) int64 {
	t.Helper()
	d, err := time.ParseDuration(m.flag(t, flag))
	if err != nil {
		t.Fatal(err)
	}
	return int64(d / time.Second)
}

func TestPartsOfTheManifestFindEachOther(t *testing.T) {
	m := readManifest(t)
	labels := m.deployment.Spec.Template.Labels
	for what, selector := range map[string]map[string]string{
		"Deployment":          m.deployment.Spec.Selector.MatchLabels,
		"Service":             m.service.Spec.Selector,
		"PodDisruptionBudget": m.disruption.Spec.Selector.MatchLabels,
		"NetworkPolicy":       m.network.Spec.PodSelector.MatchLabels,
		"topology":            m.deployment.Spec.Template.Spec.TopologySpreadConstraints[0].LabelSelector.MatchLabels,
	} {
		for name, value := range selector {
			if labels[name] != value {
				t.Errorf("%s selects %s=%s, pods have %v", what, name, value, labels)
			}
		}
		if len(selector) == 0 {
			t.Errorf("%s selects everything", what)
		}
	}
	ports := map[string]int32{}
	for _, port := range m.container().Ports {
		ports[port.Name] = port.ContainerPort
	}
	if got := m.service.Spec.Ports[0].TargetPort.StrVal; ports[got] != 44444 {
		t.Errorf("the Service leads to port %q, which is %d", got, ports[got])
	}
	if got, want := m.flag(t, "admin"), ":9090"; got != want || ports["admin"] != 9090 {
		t.Errorf("--admin=%s, and the port is %d", got, ports["admin"])
	}
	for _, flag := range []string{"register", "redis"} {
		_, path, _ := strings.Cut(m.flag(t, flag), "file:")
		dir, key := path[:strings.LastIndex(path, "/")], path[strings.LastIndex(path, "/")+1:]
		if _, ok := m.secret.StringData[key]; !ok || m.container().VolumeMounts[0].MountPath != dir {
			t.Errorf("--%s reads %s, which is nothing of the Secret's", flag, path)
		}
	}
	for _, rule := range m.network.Spec.Ingress {
		for _, port := range rule.Ports {
			if port.Port.StrVal == "admin" && len(rule.From) == 0 {
				t.Error("everybody gets to the admin port")
			}
		}
	}
}

// A pod that is to stop serves on until nobody sends it anything, and is not
// killed before it has drained.
func TestPodsDrainWithoutLoss(t *testing.T) {
	m := readManifest(t)
	c, pod := m.container(), m.deployment.Spec.Template.Spec
	delay, drain, grace := m.seconds(t, "drain-delay"), m.seconds(t, "drain-timeout"), *pod.TerminationGracePeriodSeconds
	var before int64
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		if c.Lifecycle.PreStop.Sleep == nil {
			t.Fatal("there is no shell in the image for a preStop")
		}
		before = c.Lifecycle.PreStop.Sleep.Seconds
	}
	if need := before + delay + drain + 5; grace < need {
		t.Errorf("terminationGracePeriodSeconds is %d: preStop %d s, --drain-delay %d s, --drain-timeout %d s and 5 s to end need %d", grace, before, delay, drain, need)
	}
	ready := c.ReadinessProbe
	if ready.HTTPGet.Path != "/-/ready" || ready.HTTPGet.Port.StrVal != "http" {
		t.Errorf("readiness asks %v", ready.HTTPGet)
	}
	notice := int64(ready.PeriodSeconds * ready.FailureThreshold)
	if delay < notice+5 {
		t.Errorf("--drain-delay is %d s: %d s until readiness fails, and 5 s until every node has heard of it, need %d", delay, notice, notice+5)
	}
	live := c.LivenessProbe
	if live.HTTPGet.Path != "/-/healthy" { // a draining replica is not ready, and must not be restarted
		t.Errorf("liveness asks %v", live.HTTPGet)
	}
	if rolling := m.deployment.Spec.Strategy.RollingUpdate; rolling.MaxUnavailable.IntValue() != 0 || rolling.MaxSurge.IntValue() < 1 {
		t.Errorf("a rollout takes a replica away before its successor is ready: %v", rolling)
	}
	if m.disruption.Spec.MaxUnavailable.IntValue() >= int(*m.deployment.Spec.Replicas) {
		t.Errorf("a drained node may take all %d replicas", *m.deployment.Spec.Replicas)
	}
}

func TestPodsMayDoNothingButServe(t *testing.T) {
	m := readManifest(t)
	c, pod := m.container(), m.deployment.Spec.Template.Spec
	for what, ok := range map[string]bool{
		"runs as another than root":        *pod.SecurityContext.RunAsNonRoot && *pod.SecurityContext.RunAsUser == 65532,
		"reads its file system only":       *c.SecurityContext.ReadOnlyRootFilesystem,
		"gains no rights":                  !*c.SecurityContext.AllowPrivilegeEscalation,
		"has no capabilities":              len(c.SecurityContext.Capabilities.Drop) == 1 && c.SecurityContext.Capabilities.Drop[0] == "ALL",
		"is under the default seccomp":     pod.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault,
		"has no token of the API":          !*pod.AutomountServiceAccountToken,
		"has no variables of the Services": !*pod.EnableServiceLinks,
		"says what it needs":               !c.Resources.Requests.Cpu().IsZero() && !c.Resources.Limits.Memory().IsZero(),
	} {
		if !ok {
			t.Errorf("not so: a pod %s", what)
		}
	}
}
