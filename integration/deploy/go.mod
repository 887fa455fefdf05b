// What only the tests of deploy/ need, so that the product does not depend on it.
module throttle-proxy/integration/deploy

go 1.26.0

require (
	go.yaml.in/yaml/v2 v2.4.2 // indirect
	k8s.io/api v0.34.0 // indirect
	k8s.io/apimachinery v0.34.0 // indirect
	sigs.k8s.io/yaml v1.6.0 // indirect
)
